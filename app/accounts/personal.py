"""What accounts keep of people. The user's own row `profile.delete` makes anonymous before any part is erased."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.accounts.models import AccessToken, AccountCode, LoginAddress, LoginSession, MessagePreference, User
from app.audit import AuditEntry
from app.personal_data import Part, Person, register, rows_of
from flask_belfry.changes import StatusChange, subject_type
from flask_belfry.db import db

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
TELLING = (User.username.key, User.email.key, User.time_zone.key)


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
    _execute(sa.update(StatusChange).where(of_user, StatusChange.field.in_(TELLING)).values(old=None, new=None))
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
