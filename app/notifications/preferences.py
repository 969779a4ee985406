"""What users want: a frequency for each type and channel, and quiet hours.

They are applied when a notification is sent, by `decide`. A critical one passes both. Suppressed email addresses and
missing devices are known to the channels.

In the app, there is no digest, and quiet hours hold nothing: the inbox is silent, and waits until it is read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from app.accounts import User
from app.notifications.models import (
    DeliveryState,
    Frequency,
    NotificationChannel,
    NotificationContent,
    NotificationPreference,
    NotificationSettings,
    NotificationType,
)
from app.notifications.quiet_hours import QuietHours
from app.schools import School
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db import db
from flask_belfry.db.lists import among

# The frequency of users who have not chosen another one.
DEFAULT = Frequency.INSTANT
FREQUENCIES: Mapping[NotificationChannel, tuple[Frequency, ...]] = {
    NotificationChannel.MAIL: (Frequency.INSTANT, Frequency.DAILY, Frequency.OFF),
    NotificationChannel.PUSH: (Frequency.INSTANT, Frequency.DAILY, Frequency.OFF),
    NotificationChannel.IN_APP: (Frequency.INSTANT, Frequency.OFF),
}
BY_CHANNEL = {
    NotificationChannel.MAIL: "by mail",
    NotificationChannel.PUSH: "by push",
    NotificationChannel.IN_APP: "in the app",
}
# The reason of deliveries that the next digest collects.
FOR_DIGEST = "daily digest"

Preferences = dict[NotificationType, dict[NotificationChannel, Frequency]]


class Decision(NamedTuple):
    """What happens to a delivery: it is queued, held or skipped.

    Args:
        state: queued, held or skipped.
        reason: why it is held or skipped.
        held_until: the end of the quiet hours; None of a held one means that the next digest collects it.
    """

    state: DeliveryState
    reason: str | None = None
    held_until: datetime | None = None


QUEUED = Decision(DeliveryState.QUEUED)


@dataclass(frozen=True)
class Clock:
    """The time zone of a user, and the quiet hours in it."""

    zone: ZoneInfo
    quiet_hours: QuietHours | None

    def end_of_quiet_hours(self, now: datetime) -> datetime | None:
        """Return when the current quiet hours end; None when there are none now."""
        return self.quiet_hours.end(now, self.zone) if self.quiet_hours else None


def decide(
    session: Session, user_ids: Collection[int], notification: NotificationContent, now: datetime
) -> dict[tuple[int, NotificationChannel], Decision]:
    """Return what happens to a notification for each of the users, by each channel, with at most two statements.

    Args:
        session: where to read.
        user_ids: a page of recipients.
        notification: what is sent; only its type and whether it is critical are read.
        now: when it is sent.
    """
    decisions = {(user_id, channel): QUEUED for user_id in user_ids for channel in NotificationChannel}
    if notification.is_critical:
        return decisions
    chosen = _chosen(session, user_ids, notification.type)
    clocks = clocks_of(session, user_ids)
    for user_id, channel in decisions:
        frequency = chosen.get((user_id, channel), DEFAULT)
        decisions[user_id, channel] = _decide(frequency, notification.type, channel, clocks.get(user_id), now)
    return decisions


def preferences_of(user: User) -> Preferences:
    """Return the frequency that the user wants, by type and channel."""
    columns = NotificationPreference.type, NotificationPreference.channel, NotificationPreference.frequency
    query = sa.select(*columns).where(NotificationPreference.user_id == user.id)
    chosen = {(type_, channel): frequency for type_, channel, frequency in db.session.execute(query)}
    return {
        type_: {channel: chosen.get((type_, channel), DEFAULT) for channel in NotificationChannel}
        for type_ in NotificationType
    }


def lock(user: User) -> None:
    """Lock the user's row until the commit: of two requests that change the same preferences, the second waits."""
    db.session.refresh(user, with_for_update={"key_share": True})


def change_preferences(user: User, changes: Mapping[str, Mapping[str, str]]) -> None:
    """Change the frequency of some types and channels, and flush; the others do not change.

    The caller has called `lock`, and commits.

    Raises:
        InvalidInputError: names each type, channel or frequency that is invalid, such as `preferences.payment.mail`.
    """
    if problems := _problems(changes):
        raise InvalidInputError("Some fields are invalid.", problems)
    for type_, by_channel in changes.items():
        for channel, frequency in by_channel.items():
            _keep(user, NotificationType(type_), NotificationChannel(channel), Frequency(frequency))
    db.session.flush()


def quiet_hours_of(user: User) -> QuietHours | None:
    """Return the quiet hours of the user, in the user's time zone."""
    return _quiet_hours(db.session.get(NotificationSettings, user.id))


def set_quiet_hours(user: User, quiet_from: time | None, quiet_until: time | None) -> None:
    """Set the quiet hours, or remove them with two times None, and flush. See `change_preferences`.

    Raises:
        InvalidInputError: only one time is given, or both are the same.
    """
    if (quiet_from is None) != (quiet_until is None):
        missing = "quiet_from" if quiet_from is None else "quiet_until"
        raise InvalidInputError("Some fields are invalid.", {missing: ["must be set if the other time is set"]})
    if quiet_from is not None and quiet_from == quiet_until:
        raise InvalidInputError("Some fields are invalid.", {"quiet_until": ["must differ from the beginning"]})
    row = db.session.get(NotificationSettings, user.id) or NotificationSettings()
    row.user_id, row.quiet_from, row.quiet_until = user.id, quiet_from, quiet_until
    db.session.add(row)
    db.session.flush()


def time_zone_of(user: User) -> ZoneInfo:
    """Return the time zone of the user's quiet hours and digests."""
    return clocks_of(db.session(), [user.id])[user.id].zone


def zone_name() -> sa.ColumnElement[str]:
    """Return the name of a user's time zone, for statements that join the user's school."""
    return sa.func.coalesce(User.time_zone, School.time_zone, current_app.config["TIMEZONE"])


def clocks_of(session: Session, user_ids: Collection[int]) -> dict[int, Clock]:
    """Return the time zones and quiet hours of users, by id."""
    query = (
        sa.select(User.id, zone_name().label("zone"), NotificationSettings.quiet_from, NotificationSettings.quiet_until)
        .join(School, School.id == User.school_id)
        .outerjoin(NotificationSettings, NotificationSettings.user_id == User.id)
        .where(among(User.id, "ids"))
    )
    rows = session.execute(query, {"ids": list(user_ids)})
    return {row.id: Clock(ZoneInfo(row.zone), _quiet_hours(row)) for row in rows}


def reason_of_off(type_: NotificationType, channel: NotificationChannel) -> str:
    """Return why a delivery is skipped whose recipient has turned off the type and channel."""
    return f"the recipient has turned off {type_} notifications {BY_CHANNEL[channel]}"


def _decide(
    frequency: Frequency, type_: NotificationType, channel: NotificationChannel, clock: Clock | None, now: datetime
) -> Decision:
    if frequency is Frequency.OFF:
        return Decision(DeliveryState.SKIPPED, reason_of_off(type_, channel))
    if clock is None or channel is NotificationChannel.IN_APP:
        return QUEUED
    if frequency is Frequency.DAILY:
        return Decision(DeliveryState.HELD, FOR_DIGEST)
    if (end := clock.end_of_quiet_hours(now)) is not None:
        return Decision(DeliveryState.HELD, f"held until {end.astimezone(clock.zone):%H:%M}", end)
    return QUEUED


def _chosen(
    session: Session, user_ids: Collection[int], type_: NotificationType
) -> dict[tuple[int, NotificationChannel], Frequency]:
    query = sa.select(
        NotificationPreference.user_id, NotificationPreference.channel, NotificationPreference.frequency
    ).where(NotificationPreference.type == type_, among(NotificationPreference.user_id, "ids"))
    rows = session.execute(query, {"ids": list(user_ids)})
    return {(user_id, channel): frequency for user_id, channel, frequency in rows}


def _quiet_hours(row: Any) -> QuietHours | None:
    return None if row is None or row.quiet_from is None else QuietHours(row.quiet_from, row.quiet_until)


def _problems(changes: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    problems: dict[str, list[str]] = {}
    for type_, by_channel in changes.items():
        if type_ not in set(NotificationType):
            problems[f"preferences.{type_}"] = [f"must be one of {', '.join(NotificationType)}"]
            continue
        for channel, frequency in by_channel.items():
            name = f"preferences.{type_}.{channel}"
            if channel not in set(NotificationChannel):
                problems[name] = [f"must be one of {', '.join(NotificationChannel)}"]
            elif frequency not in FREQUENCIES[NotificationChannel(channel)]:
                problems[name] = [f"must be one of {', '.join(FREQUENCIES[NotificationChannel(channel)])}"]
    return problems


def _keep(user: User, type_: NotificationType, channel: NotificationChannel, frequency: Frequency) -> None:
    row = db.session.get(NotificationPreference, (user.id, type_, channel))
    if frequency is DEFAULT:
        if row is not None:
            db.session.delete(row)
        return
    row = row or NotificationPreference()
    row.user_id, row.type, row.channel, row.frequency = user.id, type_, channel, frequency
    row.was_daily = False
    db.session.add(row)
