"""Leaving the mails of a type of notification, or the daily digest, by the link in each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from app.accounts import User, on_unsubscribe, unsubscribe_path
from app.notifications.models import (
    Frequency,
    NotificationChannel,
    NotificationDelivery,
    NotificationPreference,
    NotificationType,
)
from flask_belfry.db import db
from flask_belfry.db.lists import among
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope
from flask_belfry.mail import MailEntry

# A mail of a notification is of the kind `notification-<type>`.
KIND_PREFIX = "notification-"
DIGEST = f"{KIND_PREFIX}digest"


@use_scope(ALL_TENANTS)  # the mails may be of several schools
def paths_of(entries: Sequence[MailEntry]) -> Mapping[str, str]:
    """Return the paths of the pages on which the recipients of mails leave their kind, by the mail's id, with one
    query."""
    query = sa.select(NotificationDelivery.id, NotificationDelivery.user_id).where(
        among(NotificationDelivery.id, "ids")
    )
    rows = db.session.execute(query, {"ids": [entry.context["delivery_id"] for entry in entries]})
    users = {row[0]: row[1] for row in rows}
    return {
        entry.id: unsubscribe_path(users[entry.context["delivery_id"]], entry.kind)
        for entry in entries
        if entry.context["delivery_id"] in users
    }


def paths_of_digests(entries: Sequence[MailEntry]) -> Mapping[str, str]:
    """Return the paths of the pages on which the recipients of digests leave them, by the mail's id."""
    return {entry.id: unsubscribe_path(entry.context["user_id"], DIGEST) for entry in entries}


def describe(kind: str) -> str | None:
    """Return the event that the mails of a kind report; None if there is no such type."""
    if kind == DIGEST:
        return "The school has sent notifications of the types of my daily digest"
    name = kind.removeprefix(KIND_PREFIX)
    return f"The school sends a notification ({name})" if name in list(NotificationType) else None


def choose(user: User, kind: str, is_wanted: bool) -> None:
    """Set whether the user wants notifications of a type, or those of the digest, by mail. The caller has locked the
    user's row."""
    if kind == DIGEST:
        _choose_digest(user, is_wanted=is_wanted)
    else:
        _choose_type(user, NotificationType(kind.removeprefix(KIND_PREFIX)), is_wanted=is_wanted)
    db.session.flush()


def _choose_type(user: User, of_type: NotificationType, *, is_wanted: bool) -> None:
    row = db.session.get(NotificationPreference, (user.id, of_type, NotificationChannel.MAIL))
    if row is None:
        if not is_wanted:
            row = NotificationPreference()
            row.user_id, row.type, row.channel = user.id, of_type, NotificationChannel.MAIL
            row.frequency = Frequency.OFF
            db.session.add(row)
    elif not is_wanted:
        _turn_off(row)
    elif row.frequency is Frequency.OFF:
        _turn_on(row)


def _choose_digest(user: User, *, is_wanted: bool) -> None:
    """Turn off every type that is in the digest; when that is taken back, those that were in it are again."""
    of_mail = sa.select(NotificationPreference).where(
        NotificationPreference.user_id == user.id, NotificationPreference.channel == NotificationChannel.MAIL
    )
    for row in db.session.scalars(of_mail):
        if is_wanted and row.was_daily and row.frequency is Frequency.OFF:
            _turn_on(row)
        elif not is_wanted and row.frequency is Frequency.DAILY:
            _turn_off(row)


def _turn_off(row: NotificationPreference) -> None:
    if row.frequency is Frequency.DAILY:
        row.was_daily = True
    row.frequency = Frequency.OFF


def _turn_on(row: NotificationPreference) -> None:
    if row.was_daily:
        row.frequency, row.was_daily = Frequency.DAILY, False
    else:
        db.session.delete(row)


on_unsubscribe(KIND_PREFIX, describe, choose)
