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
    if is_wanted:
        if row is not None:
            db.session.delete(row)
    elif row is None:
        off = NotificationPreference()
        off.user_id, off.type, off.channel, off.frequency = user.id, of_type, NotificationChannel.MAIL, Frequency.OFF
        db.session.add(off)
    else:
        row.frequency = Frequency.OFF


def _choose_digest(user: User, *, is_wanted: bool) -> None:
    """Turn off every type that is in the digest; when that is taken back, every type that is off is in it."""
    before, after = (Frequency.OFF, Frequency.DAILY) if is_wanted else (Frequency.DAILY, Frequency.OFF)
    of_mail = sa.select(NotificationPreference).where(
        NotificationPreference.user_id == user.id,
        NotificationPreference.channel == NotificationChannel.MAIL,
        NotificationPreference.frequency == before,
    )
    for row in db.session.scalars(of_mail):
        row.frequency = after


on_unsubscribe(KIND_PREFIX, describe, choose)
