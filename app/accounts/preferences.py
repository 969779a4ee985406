"""Message preferences of users by kind and channel. They are checked when a mail is delivered.

The kinds are the optional ones of `flask_belfry.mail`; all others are always sent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa

from app.accounts.models import Channel, MessagePreference, User
from app.accounts.validation import valid_email
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope
from flask_belfry.mail import opt_out_lookup, optional_kinds

# The preferences of users who have not changed them.
DEFAULTS: Mapping[Channel, bool] = {Channel.MAIL: True, Channel.PUSH: True}
IDNA_PREFIX = "xn--"

Preferences = dict[str, dict[str, bool]]


def preferences_of(user: User) -> Preferences:
    """Return whether the user wants each optional kind, by channel."""
    columns = MessagePreference.kind, MessagePreference.channel, MessagePreference.is_wanted
    query = sa.select(*columns).where(MessagePreference.user_id == user.id)
    chosen = {(kind, channel): is_wanted for kind, channel, is_wanted in db.session.execute(query)}
    return {
        kind: {channel.value: chosen.get((kind, channel), DEFAULTS[channel]) for channel in Channel}
        for kind in optional_kinds()
    }


def change_preferences(user: User, changes: Mapping[str, Mapping[str, bool]]) -> None:
    """Change the preferences of some kinds. The caller has locked the user's row, and commits.

    Raises:
        InvalidInputError: names each kind that is unknown or not optional.
    """
    unknown = {f"preferences.{kind}": ["not an optional kind of message"] for kind in changes.keys() - optional_kinds()}
    if unknown:
        raise InvalidInputError("Some fields are invalid.", unknown)
    for kind, by_channel in changes.items():
        for channel, is_wanted in by_channel.items():
            _keep(user, kind, Channel(channel), is_wanted)
    db.session.flush()


@opt_out_lookup
@use_scope(ALL_TENANTS)  # an email address is unique across schools
def who_refuses(kind: str, emails: Collection[str]) -> set[str]:
    """Return those of the recipients' email addresses whose users have opted out of a kind."""
    by_email = {stored_form(email): email for email in emails}
    refuses = sa.exists().where(
        MessagePreference.user_id == User.id,
        MessagePreference.kind == kind,
        MessagePreference.channel == Channel.MAIL,
        ~MessagePreference.is_wanted,
    )
    query = sa.select(User.email).where(User.email.in_(by_email), User.confirmed_at.is_not(None), refuses)
    return {by_email[email] for email in db.session.scalars(query)}


def choose(user: User, kind: str, is_wanted: bool) -> None:
    """Set whether the user wants mails of an optional kind. The caller commits."""
    _keep(user, kind, Channel.MAIL, is_wanted)
    db.session.flush()


def _keep(user: User, kind: str, channel: Channel, is_wanted: bool) -> None:
    row = db.session.get(MessagePreference, (user.id, kind, channel))
    if is_wanted == DEFAULTS[channel]:
        if row is not None:
            db.session.delete(row)
        return
    row = row or MessagePreference()
    row.user_id, row.kind, row.channel, row.is_wanted = user.id, kind, channel, is_wanted
    db.session.add(row)


def stored_form(email: str) -> str:
    # Mails have domains in ASCII, users in Unicode.
    return valid_email(email) if IDNA_PREFIX in email else email
