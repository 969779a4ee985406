"""What accounts keep of people. The user's own row `profile.delete` makes anonymous before any part is erased."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import current_app

from app.accounts.models import AccessToken, AccountCode, LoginAddress, LoginSession, MessagePreference, User
from app.audit import AuditEntry
from app.personal_data import Part, Person, exempt, register, rows_of
from flask_belfry.changes import StatusChange, subject_type
from flask_belfry.db import db
from flask_belfry.mail import EmailMessage, check_address, erase_mails

# Of the user's row: all but what is secret, or of no meaning to people.
PROFILE = (
    User.id,
    User.username,
    User.email,
    User.name,
    User.role,
    User.time_zone,
    User.skips_own_changes,
    User.created_at,
    User.confirmed_at,
    User.last_login_at,
    User.last_login_ip,
    User.current_login_at,
    User.current_login_ip,
    User.login_count,
    User.tf_primary_method.label("second_factor"),
)
TOKENS = (
    AccessToken.name,
    AccessToken.scopes,
    AccessToken.created_at,
    AccessToken.expires_at,
    AccessToken.last_used_at,
    AccessToken.revoked_at,
)
CODES = (AccountCode.purpose, AccountCode.created_at, AccountCode.expires_at, AccountCode.used_at)
ADDRESSES = (
    LoginAddress.address,
    LoginAddress.state,
    LoginAddress.user_agent,
    LoginAddress.first_seen_at,
    LoginAddress.last_seen_at,
)
SESSIONS = (LoginSession.created_at, LoginSession.last_seen_at, LoginSession.address, LoginSession.user_agent)
CHOICES = (MessagePreference.kind, MessagePreference.channel, MessagePreference.is_wanted)
# Watched columns of users whose old and new values tell who somebody is.
IDENTIFYING = (User.username.key, User.email.key, User.time_zone.key)

MAILS_ERASED = "the recipient has deleted the account"


def export(person: Person) -> dict[str, Any]:
    """The user, what they chose, and what lets them in: without what would let anybody in."""
    (profile,) = rows_of(sa.select(*PROFILE).where(User.id == person.id))
    return {
        "profile": profile,
        "preferences": rows_of(sa.select(*CHOICES).where(MessagePreference.user_id == person.id)),
        "tokens": rows_of(sa.select(*TOKENS).where(AccessToken.user_id == person.id).order_by(AccessToken.id)),
        "sessions": rows_of(sa.select(*SESSIONS).where(LoginSession.user_id == person.id).order_by(LoginSession.id)),
        "addresses": rows_of(sa.select(*ADDRESSES).where(LoginAddress.user_id == person.id).order_by(LoginAddress.id)),
        "codes": rows_of(sa.select(*CODES).where(AccountCode.user_id == person.id).order_by(AccountCode.id)),
    }


def erase(person: Person) -> None:
    """Deletes what lets them in and what they chose, and takes out of the log what they were called, and where."""
    for model in (AccessToken, LoginSession, LoginAddress, AccountCode, MessagePreference):
        _execute(sa.delete(model).where(model.user_id == person.id))
    of_user = sa.and_(StatusChange.subject_type == subject_type(User), StatusChange.subject_id == person.id)
    _execute(sa.update(StatusChange).where(of_user, StatusChange.field.in_(IDENTIFYING)).values(old=None, new=None))
    # What they said of an address names it.
    about_user = sa.and_(AuditEntry.subject_type == subject_type(User), AuditEntry.subject_id == person.id)
    _execute(sa.update(AuditEntry).where(about_user, AuditEntry.action.startswith("user.address_")).values(details={}))


def _execute(statement: sa.Update | sa.Delete) -> None:
    db.session.execute(statement, execution_options={"synchronize_session": False})


register(
    Part(
        "account",
        (
            AccessToken.user_id,
            LoginSession.user_id,
            LoginAddress.user_id,
            AccountCode.user_id,
            MessagePreference.user_id,
        ),
        export,
        erase,
        "Your name, email address, password and tokens are deleted, and you are logged out everywhere. "
        "The username and the email address can be registered again, by you or by others.",
    )
)


def export_mails(person: Person) -> list[dict[str, Any]]:
    """The mails to the person. What they said is not kept by anybody."""
    columns = (
        EmailMessage.kind,
        EmailMessage.recipient,
        EmailMessage.state,
        EmailMessage.subject_type.label("about"),
        EmailMessage.subject_id.label("about_id"),
        EmailMessage.created_at.label("asked_for_at"),
        EmailMessage.sent_at,
    )
    return rows_of(sa.select(*columns).where(_is_theirs(person)).order_by(EmailMessage.id))


def erase_mails_to(person: Person) -> None:
    """Takes the address out of all mails to the person; those that wait are not sent."""
    erase_mails(db.session(), _is_theirs(person), MAILS_ERASED)


def _is_theirs(person: Person) -> sa.ColumnElement[bool]:
    is_about = sa.and_(EmailMessage.subject_type == "user", EmailMessage.subject_id == person.id)
    address = check_address(person.email).address.lower()
    # The desk's address is the school's, also when somebody logs in with it: what the desk gets is not theirs.
    if address == check_address(current_app.config["ADMIN_EMAIL"]).address.lower():
        return is_about
    return sa.or_(EmailMessage.recipient == address, is_about)


register(
    Part(
        "mails",
        (),
        export_mails,
        erase_mails_to,
        "Emails to you that are waiting are not sent, and your email address is removed from the records of sent ones. "
        "One last email confirms that the account was deleted.",
    )
)
exempt("who asked for a mail: the number of a user who has no name any more", EmailMessage.user_id)
