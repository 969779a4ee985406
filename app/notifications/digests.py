"""The daily digest: what waits for it is sent at NOTIFICATION_DIGEST_HOUR of each person, as one mail and one push.

The transaction that enqueues a digest changes its deliveries, which must be waiting: so each is in one digest, also
after a crash and with two schedulers. Their mail is that of the digest, and its outcome is theirs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, time
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from app.accounts import User
from app.notifications.channels import CHANNELS, unreachable_by
from app.notifications.delivering import skip_held
from app.notifications.models import (
    DeliveryState,
    Frequency,
    Notification,
    NotificationChannel,
    NotificationDelivery,
    NotificationPreference,
    NotificationType,
)
from app.notifications.preferences import FOR_DIGEST, clocks_of, reason_of_off, zone_name
from app.notifications.push_channel import PUSH
from app.notifications.quiet_hours import last_moment
from app.notifications.reasons import EXPIRED
from app.notifications.unsubscribing import DIGEST
from app.schools import School
from flask_belfry.changes import Subject, for_school
from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.db.columns import new_id
from flask_belfry.db.lists import among
from flask_belfry.execution import current_job
from flask_belfry.mail import MailRequest, send_mails
from flask_belfry.outbox import JobRequest, enqueue_many

PAGE = 500

_DELIVERIES = table_of(NotificationDelivery)
_WAITS = (
    NotificationDelivery.state == DeliveryState.HELD,
    NotificationDelivery.held_until.is_(None),
    NotificationDelivery.reason == FOR_DIGEST,
)
_STILL_WAITS = (_DELIVERIES.c.state == DeliveryState.HELD, _DELIVERIES.c.held_until.is_(None))
_COLLECT = (
    sa.update(_DELIVERIES)
    .where(among(_DELIVERIES.c.id, "ids"), *_STILL_WAITS)
    .values(state=DeliveryState.QUEUED, reason=None)
    .returning(_DELIVERIES.c.id)
)
_SET_MAIL = sa.update(_DELIVERIES).where(among(_DELIVERIES.c.id, "ids")).values(email_id=sa.bindparam("mail_id"))
_SET_JOB = sa.update(_DELIVERIES).where(among(_DELIVERIES.c.id, "ids")).values(job_id=sa.bindparam("push_job_id"))


class Waiting(NamedTuple):
    """A delivery that waits for the digest, with what decides whether it is still wanted."""

    id: str
    user_id: int
    channel: NotificationChannel
    school_id: int
    type: NotificationType
    expires_at: datetime | None
    frequency: Frequency | None


class Digest(NamedTuple):
    """The deliveries that one mail or push replaces, in the order in which they were sent."""

    school_id: int
    user_id: int
    delivery_ids: list[str]


def send_digests(session: Session) -> dict[str, int]:
    """Enqueue the digests that are due, as a job; return the numbers of mails and push messages."""
    now = utc_now()
    sent: Counter[str] = Counter(mails=0, pushes=0)
    if (is_due := due_condition(session, now)) is None:
        return dict(sent)
    query = _of_users(sa.select(NotificationDelivery.id, NotificationDelivery.user_id)).where(is_due)
    for page in current_job().steps(query, PAGE, key=NotificationDelivery.user_id):
        sent.update(send_to(session, {row.user_id for row in page}, is_due, now))
    return dict(sent)


def send_to(
    session: Session, user_ids: Collection[int], is_due: sa.ColumnElement[bool], now: datetime
) -> dict[str, int]:
    """Enqueue the digests of some people, unless quiet hours hold them. The caller commits."""
    awake = [id for id, clock in clocks_of(session, user_ids).items() if clock.end_of_quiet_hours(now) is None]
    collected = _collect(session, _waiting(session, awake, is_due), now)
    by_mail = _digests(collected, NotificationChannel.MAIL)
    by_push = _digests(collected, NotificationChannel.PUSH)
    _send_mails(session, by_mail)
    _send_pushes(session, by_push)
    return {"mails": len(by_mail), "pushes": len(by_push)}


def due_condition(session: Session, now: datetime) -> sa.ColumnElement[bool] | None:
    """Return the condition that a delivery was written before the last digest in its person's zone; None if none is."""
    zone, clock = zone_name(), time(current_app.config["NOTIFICATION_DIGEST_HOUR"])
    zones = session.scalars(
        _of_users(sa.select(zone).distinct().select_from(NotificationDelivery)).where(*_WAITS)
    ).all()
    if not zones:
        return None
    last = {name: last_moment(now, clock, ZoneInfo(name)) for name in zones}
    is_before = sa.or_(*(sa.and_(zone == name, NotificationDelivery.created_at < last[name]) for name in zones))
    return sa.and_(*_WAITS, is_before)


def _of_users(query: Any) -> Any:
    return query.join(User, User.id == NotificationDelivery.user_id).join(School, School.id == User.school_id)


def _waiting(session: Session, user_ids: Sequence[int], is_due: sa.ColumnElement[bool]) -> list[Waiting]:
    """Return all that is due of some people: a page may end within those of one."""
    columns = (
        *(NotificationDelivery.id, NotificationDelivery.user_id, NotificationDelivery.channel),
        *(NotificationDelivery.school_id, Notification.type, Notification.expires_at, NotificationPreference.frequency),
    )
    preference = sa.and_(
        NotificationPreference.user_id == NotificationDelivery.user_id,
        NotificationPreference.type == Notification.type,
        NotificationPreference.channel == NotificationDelivery.channel,
    )
    query = (
        _of_users(sa.select(*columns))
        .join(Notification, Notification.id == NotificationDelivery.notification_id)
        .outerjoin(NotificationPreference, preference)
        .where(is_due, among(NotificationDelivery.user_id, "user_ids"))
        .order_by(NotificationDelivery.id)
    )
    return [Waiting(*row) for row in session.execute(query, {"user_ids": user_ids})]


def _collect(session: Session, waiting: Sequence[Waiting], now: datetime) -> list[Waiting]:
    """Skip what is not wanted any more or cannot be delivered, and return what is queued now and not elsewhere."""
    skipped = _reasons_to_skip(session, waiting, now)
    skip_held(session, skipped)
    ids = [row.id for row in waiting if row.id not in skipped]
    collected = set(session.connection().execute(_COLLECT, {"ids": ids}).scalars())
    return [row for row in waiting if row.id in collected]


def _reasons_to_skip(session: Session, waiting: Sequence[Waiting], now: datetime) -> Mapping[str, str]:
    unreachable = {
        channel: unreachable_by(CHANNELS[channel], session, {row.user_id for row in waiting if row.channel is channel})
        for channel in {row.channel for row in waiting}
    }
    reasons: dict[str, str] = {}
    for row in waiting:
        if row.frequency is Frequency.OFF:
            reasons[row.id] = reason_of_off(row.type, row.channel)
        elif row.expires_at is not None and row.expires_at <= now:
            reasons[row.id] = EXPIRED
        elif (reason := unreachable[row.channel].get(row.user_id)) is not None:
            reasons[row.id] = reason
    return reasons


def _digests(collected: Iterable[Waiting], channel: NotificationChannel) -> list[Digest]:
    found: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for row in collected:
        if row.channel is channel:
            found[row.school_id, row.user_id].append(row.id)
    return [Digest(*key, ids) for key, ids in found.items()]


def _by_school(digests: Iterable[Digest]) -> Mapping[int, list[Digest]]:
    found: defaultdict[int, list[Digest]] = defaultdict(list)
    for digest in digests:
        found[digest.school_id].append(digest)
    return found


def _send_mails(session: Session, digests: Sequence[Digest]) -> None:
    query = sa.select(User.id, User.email).where(among(User.id, "ids"))
    rows = session.execute(query, {"ids": [digest.user_id for digest in digests]})
    emails = {row.id: row.email for row in rows}
    for school_id, of_school in _by_school(digests).items():
        mails = [(new_id(), digest) for digest in of_school]
        # First: a mail that is not sent at all has its outcome before `send_mails` returns.
        values = [{"mail_id": mail_id, "ids": digest.delivery_ids} for mail_id, digest in mails]
        session.connection().execute(_SET_MAIL, values)
        requests = [
            MailRequest(
                [emails[digest.user_id]],
                f"{DIGEST}/{mail_id}",
                {"user_id": digest.user_id},
                Subject("user", digest.user_id),
                id=mail_id,
            )
            for mail_id, digest in mails
        ]
        with for_school(school_id):
            send_mails(DIGEST, requests)


def _send_pushes(session: Session, digests: Sequence[Digest]) -> None:
    """Enqueue one job for each person: that of the newest delivery, which all of them have."""
    for school_id, of_school in _by_school(digests).items():
        pushes = [(new_id(), digest) for digest in of_school]
        values = [{"push_job_id": job_id, "ids": digest.delivery_ids} for job_id, digest in pushes]
        session.connection().execute(_SET_JOB, values)
        requests = [JobRequest({"delivery_id": digest.delivery_ids[-1]}, id=job_id) for job_id, digest in pushes]
        with for_school(school_id):
            enqueue_many(PUSH, requests)
