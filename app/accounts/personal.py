"""Personal data of accounts and mails. `profile.delete` anonymizes the user's row before it erases the parts."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import current_app

from app.accounts.models import AccessToken, AccountCode, LoginAddress, LoginSession, MessagePreference, User
from app.audit import AuditEntry
from app.personal_data import Part, Person, exempt, register, rows_of
from flask_belfry.changes import StatusChange, subject_type
from flask_belfry.db import db
from flask_belfry.mail import EmailMessage, check_email, erase_mails, forget_suppression

# The columns of the user without secrets and technical values.
PROFILE = (
    User.id,
    User.username,
    User.email,
    User.name,
    User.role,
    User.may_operate,
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
LOGIN_ADDRESSES = (
    LoginAddress.ip_address,
    LoginAddress.state,
    LoginAddress.user_agent,
    LoginAddress.first_seen_at,
    LoginAddress.last_seen_at,
)
SESSIONS = (LoginSession.created_at, LoginSession.last_seen_at, LoginSession.ip_address, LoginSession.user_agent)
CHOICES = (MessagePreference.kind, MessagePreference.channel, MessagePreference.is_wanted)
# Tracked columns of users whose recorded values identify a person.
IDENTIFYING = (User.username.key, User.email.key, User.time_zone.key)

MAILS_ERASED = "the recipient has deleted the account"


def export(person: Person) -> dict[str, Any]:
    """Return the user, preferences, tokens, sessions, IP addresses and codes, without secrets."""
    (profile,) = rows_of(sa.select(*PROFILE).where(User.id == person.id))
    return {
        "profile": profile,
        "preferences": rows_of(sa.select(*CHOICES).where(MessagePreference.user_id == person.id)),
        "tokens": rows_of(sa.select(*TOKENS).where(AccessToken.user_id == person.id).order_by(AccessToken.id)),
        "sessions": rows_of(sa.select(*SESSIONS).where(LoginSession.user_id == person.id).order_by(LoginSession.id)),
        "addresses": rows_of(
            sa.select(*LOGIN_ADDRESSES).where(LoginAddress.user_id == person.id).order_by(LoginAddress.id)
        ),
        "codes": rows_of(sa.select(*CODES).where(AccountCode.user_id == person.id).order_by(AccountCode.id)),
    }


def erase(person: Person) -> None:
    """Delete tokens, sessions, IP addresses, codes and preferences, and erase identifying values from the log."""
    for model in (AccessToken, LoginSession, LoginAddress, AccountCode, MessagePreference):
        _execute(sa.delete(model).where(model.user_id == person.id))
    of_user = sa.and_(StatusChange.subject_type == subject_type(User), StatusChange.subject_id == person.id)
    _execute(sa.update(StatusChange).where(of_user, StatusChange.field.in_(IDENTIFYING)).values(old=None, new=None))
    # Events about an IP address contain it.
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
    """Return the mails to the person. Their text is not stored."""
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
    """Remove the email address from all mails to the person; waiting mails are not sent."""
    erase_mails(db.session(), _is_theirs(person), MAILS_ERASED)
    forget_suppression(check_email(person.email).email)


def _is_theirs(person: Person) -> sa.ColumnElement[bool]:
    is_about = sa.and_(EmailMessage.subject_type == "user", EmailMessage.subject_id == person.id)
    email = check_email(person.email).email.lower()
    # ADMIN_EMAIL belongs to the school, even if a user has it: mails to it are not personal.
    if email == check_email(current_app.config["ADMIN_EMAIL"]).email.lower():
        return is_about
    return sa.or_(EmailMessage.recipient == email, is_about)


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
exempt("who caused a mail: the id of an anonymized user", EmailMessage.user_id)
