"""Delivering a notification: the job goes through its recipients, page by page, and writes a delivery for each person
and channel, with the jobs that the channels need. A page is one commit, so a crash repeats nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from app.notifications import preferences, queries, services
from app.notifications.channels import CHANNELS, Channel, Outgoing, unreachable_by
from app.notifications.models import (
    DeliveryState,
    Notification,
    NotificationChannel,
    NotificationDelivery,
    NotificationRecipient,
    NotificationState,
)
from app.notifications.preferences import Decision
from app.notifications.reasons import EXPIRED
from flask_belfry import outbox
from flask_belfry.changes import for_school
from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.db.columns import new_id
from flask_belfry.db.lists import among
from flask_belfry.execution import JobCancelledError, current_job, take_start_times
from flask_belfry.outbox import JobBatch, JobLimit, JobRequest

PAGE = 500
RELEASE, FALL_BACK = "notifications.release_held", "notifications.fall_back"
# States of push messages that a mail replaces.
NOT_REACHED = (DeliveryState.QUEUED, DeliveryState.DEFERRED, DeliveryState.FAILED, DeliveryState.SKIPPED)
RETRIED_FOR = timedelta(days=1)
# After this time, held deliveries are not those that a job is releasing.
OVERDUE = timedelta(minutes=15)
MAILED_INSTEAD = "mailed instead"

_DELIVERIES = table_of(NotificationDelivery)
_INSERT = sa.insert(_DELIVERIES)
_EXISTING = sa.select(_DELIVERIES.c.user_id, _DELIVERIES.c.channel).where(
    _DELIVERIES.c.notification_id == sa.bindparam("notification_id"), among(_DELIVERIES.c.user_id, "ids")
)
_RELEASE = (
    sa.update(_DELIVERIES)
    .where(among(_DELIVERIES.c.id, "ids"))
    .values(state=DeliveryState.QUEUED, reason=None, held_until=None)
)
_SKIP = (
    sa.update(_DELIVERIES)
    .where(_DELIVERIES.c.id == sa.bindparam("of"), _DELIVERIES.c.state == DeliveryState.HELD)
    .values(state=DeliveryState.SKIPPED, reason=sa.bindparam("why"), held_until=None)
)
_JOBS_OF_ONE = (
    sa.select(_DELIVERIES.c.job_id)
    .where(among(_DELIVERIES.c.job_id, "job_ids"))
    .group_by(_DELIVERIES.c.job_id)
    .having(sa.func.count() == 1)
)
_SET_MAILED_INSTEAD = sa.update(_DELIVERIES).where(among(_DELIVERIES.c.job_id, "job_ids")).values(reason=MAILED_INSTEAD)
_DO_NOT_RETRY = (
    sa.update(_DELIVERIES)
    .where(among(_DELIVERIES.c.id, "ids"), _DELIVERIES.c.state == DeliveryState.FAILED)
    .values(is_passing=False)
)


def deliver(session: Session, notification_id: str) -> dict[str, int]:
    """Write the deliveries of a notification, as a job; return how many recipients were read since its last claim."""
    query = sa.select(NotificationRecipient).where(
        NotificationRecipient.notification_id == notification_id, NotificationRecipient.left_out.is_(None)
    )
    recipients = 0
    for page in current_job().steps(query, PAGE, name="recipients", key=NotificationRecipient.user_id):
        notification = lock_sending(session, notification_id)
        channels = [CHANNELS[NotificationChannel(name)] for name in notification.channels]
        _Page(session, notification, list(dict.fromkeys(row.user_id for row in page)), channels).write()
        recipients += len(page)
    _enqueue_fall_back(session, notification_id)
    return {"recipients": recipients}


def release_held(session: Session, notification_id: str, held_until: str) -> dict[str, int]:
    """Deliver what quiet hours held until this time, as a job."""
    query = sa.select(NotificationDelivery).where(
        NotificationDelivery.notification_id == notification_id,
        NotificationDelivery.state == DeliveryState.HELD,
        NotificationDelivery.held_until <= datetime.fromisoformat(held_until),
    )
    released = 0
    for page in current_job().steps(query, PAGE, name="held"):
        notification = lock_sending(session, notification_id)
        for name, channel in CHANNELS.items():
            held = [row for row in page if row.channel is name]
            released += _release(session, notification, channel, held) if held else 0
    _enqueue_fall_back(session, notification_id, held_until)
    return {"released": released}


def fall_back(session: Session, notification_id: str) -> dict[str, int]:
    """Write a mail for each person whom push has not reached, and cancel their push messages, as a job. Held push
    messages are not late."""
    query = sa.select(NotificationDelivery).where(
        NotificationDelivery.notification_id == notification_id,
        NotificationDelivery.channel == NotificationChannel.PUSH,
        NotificationDelivery.state.in_(NOT_REACHED),
    )
    mails = 0
    for page in current_job().steps(query, PAGE, name="push"):
        notification = lock_sending(session, notification_id)
        users = [delivery.user_id for delivery in page]
        rows = _Page(session, notification, users, [CHANNELS[NotificationChannel.MAIL]], is_fallback=True).write()
        mailed = {row["user_id"] for row in rows if row["state"] is DeliveryState.QUEUED}
        _cancel_pushes(session, [delivery for delivery in page if delivery.user_id in mailed])
        mails += len(rows)
    return {"mails": mails}


def _cancel_pushes(session: Session, deliveries: Sequence[NotificationDelivery]) -> None:
    """Cancel push messages that mails replace. One that is being sent is not tried again, and a job that delivers the
    digest of several notifications goes on."""
    connection = session.connection()
    job_ids = [each.job_id for each in deliveries if each.state in (DeliveryState.QUEUED, DeliveryState.DEFERRED)]
    of_one = list(connection.execute(_JOBS_OF_ONE, {"job_ids": job_ids}).scalars())
    cancelled, _ = outbox.cancel(of_one)
    # After the jobs, as a chunk that ends them does: of two transactions, each would wait for the other.
    connection.execute(_SET_MAILED_INSTEAD, {"job_ids": cancelled})
    connection.execute(_DO_NOT_RETRY, {"ids": [each.id for each in deliveries]})


def retry_failed_deliveries(session: Session) -> dict[str, int]:
    """Retry the deliveries of the last day that failed for reasons that may pass, as a job, and release what is still
    held after its time: the job for that was cancelled, has failed, or did not see a page that was committed later."""
    _release_overdue(session)
    since = utc_now() - RETRIED_FOR
    is_passing = NotificationDelivery.is_passing, NotificationDelivery.created_at > since
    failed = sa.select(NotificationDelivery.notification_id).where(*is_passing)
    query = sa.select(Notification).where(Notification.id.in_(failed))
    retried = 0
    for page in current_job().steps(query, 1, name="notifications"):
        for notification in page:
            found = sa.select(NotificationDelivery).where(NotificationDelivery.notification_id == notification.id)
            locked = queries.get(notification.id, for_update=True)
            if services.retry_problem(locked) is None:
                retried += services.retry_deliveries(locked, session.scalars(found.where(*is_passing)).all())
    return {"retried": retried}


def finish(session: Session, notification_id: str) -> None:
    """Finish a notification whose batch has ended, unless it was cancelled, or a retry has opened the batch again."""
    notification = queries.get(notification_id, for_update=True)
    batch = session.get(JobBatch, notification.batch_id, populate_existing=True)
    is_open = batch is not None and batch.finished_at is None
    if notification.state is NotificationState.SENDING and not is_open:
        notification.state, notification.finished_at = NotificationState.FINISHED, utc_now()


def skip_held(session: Session, reasons: Mapping[str, str]) -> None:
    """Skip held deliveries, each for its reason, by their ids."""
    if reasons:
        values = [{"of": id, "why": reason} for id, reason in reasons.items()]
        session.connection().execute(_SKIP, values)


def lock_sending(session: Session, notification_id: str) -> Notification:
    """Return a notification that is being sent; it cannot be cancelled until the page is committed.

    Raises:
        JobCancelledError: it is cancelled.
    """
    query = sa.select(Notification).where(Notification.id == notification_id)
    query = query.with_for_update(read=True).execution_options(populate_existing=True)
    notification = session.scalars(query).one()
    if notification.state is NotificationState.CANCELLED:
        raise JobCancelledError("the notification was cancelled")
    return notification


def enqueue(session: Session, notification: Notification, channel: Channel, deliveries: Sequence[Outgoing]) -> None:
    """Enqueue deliveries of a channel, as jobs of the batch of the current job if it has one."""
    if deliveries:
        delays = {} if channel.is_immediate else _delays(session, notification, deliveries)
        with _joining_batch():
            channel.enqueue(session, notification, deliveries, delays)


def _delays(session: Session, notification: Notification, deliveries: Sequence[Outgoing]) -> dict[str, timedelta]:
    """Return how long deliveries wait so that their school does not exceed its rate."""
    per_minute = current_app.config["NOTIFICATIONS_PER_MINUTE"]
    if not per_minute or notification.is_critical:
        return {}
    times = take_start_times(session, rate_key(notification.school_id), per_minute, len(deliveries))
    now = utc_now()
    return {each.id: start_at - now for each, start_at in zip(deliveries, times, strict=True) if start_at > now}


def rate_key(school_id: int) -> str:
    """Return the key of the rate of a school."""
    return f"notifications/{school_id}"


def _joining_batch() -> AbstractContextManager[None]:
    job = current_job()
    return nullcontext() if job.claim.batch_id is None else job.batch.joining()


def _release(
    session: Session, notification: Notification, channel: Channel, held: Sequence[NotificationDelivery]
) -> int:
    """Enqueue held deliveries of a channel, and skip those that cannot be delivered or are not wanted any more."""
    users = [row.user_id for row in held]
    decisions = preferences.decide(session, users, notification, utc_now())
    unwanted = {
        id: decision.reason
        for (id, name), decision in decisions.items()
        if name is channel.name and decision.state is DeliveryState.SKIPPED
    }
    reasons = unwanted | unreachable_by(channel, session, users)
    skip_held(session, {row.id: reason for row in held if (reason := reasons.get(row.user_id)) is not None})
    released = [row for row in held if row.user_id not in reasons]
    outgoing = [Outgoing(row.id, row.user_id, row.job_id, row.email_id) for row in released]
    enqueue(session, notification, channel, outgoing)
    session.connection().execute(_RELEASE, {"ids": [row.id for row in released]})
    return len(released)


def _release_overdue(session: Session) -> None:
    now = utc_now()
    overdue = sa.select(NotificationDelivery.notification_id, NotificationDelivery.school_id).where(
        NotificationDelivery.state == DeliveryState.HELD, NotificationDelivery.held_until < now - OVERDUE
    )
    for id, school_id in session.execute(overdue.distinct()):
        with for_school(school_id):
            key = f"{RELEASE}/{id}/overdue"
            outbox.enqueue(RELEASE, notification_id=id, held_until=now.isoformat(), unique_key=key)


def _enqueue_fall_back(session: Session, notification_id: str, after: str = "") -> None:
    """Enqueue the job that replaces push messages by mails, if the type has a time for it; it joins no batch."""
    notification = session.get_one(Notification, notification_id)
    minutes = (current_app.config["NOTIFICATION_FALLBACK_MINUTES"] or {}).get(notification.type)
    if minutes is None or set(notification.channels) & {"mail", "push"} != {"push"}:
        return
    key = JobLimit.key == rate_key(notification.school_id)
    last_start_at = session.scalar(sa.select(JobLimit.next_start_at).where(key)) or utc_now()
    outbox.enqueue(
        FALL_BACK,
        notification_id=notification_id,
        unique_key=f"{FALL_BACK}/{notification_id}/{after}",
        scheduled_at=max(last_start_at, utc_now()) + timedelta(minutes=minutes),
    )


class _Page:
    """The deliveries of some people who have none yet."""

    def __init__(
        self,
        session: Session,
        notification: Notification,
        user_ids: Sequence[int],
        channels: Sequence[Channel],
        *,
        is_fallback: bool = False,
    ) -> None:
        self._session, self._notification, self._now = session, notification, utc_now()
        self._users, self._channels, self._is_fallback = user_ids, channels, is_fallback

    def write(self) -> list[dict[str, Any]]:
        """Write them, and enqueue what delivers them; return their values."""
        rows = list(self._rows())
        if not rows:
            return rows
        self._session.connection().execute(_INSERT, rows)
        for channel in self._channels:
            queued = [
                Outgoing(row["id"], row["user_id"], row["job_id"], row["email_id"])
                for row in rows
                if row["channel"] is channel.name and row["state"] is DeliveryState.QUEUED
            ]
            enqueue(self._session, self._notification, channel, queued)
        self._enqueue_release({row["held_until"] for row in rows if row["state"] is DeliveryState.HELD} - {None})
        return rows

    def _rows(self) -> Iterator[dict[str, Any]]:
        values = {"notification_id": self._notification.id, "ids": self._users}
        existing = {(row.user_id, row.channel) for row in self._session.connection().execute(_EXISTING, values)}
        decisions = preferences.decide(self._session, self._users, self._notification, self._now)
        for channel in self._channels:
            unreachable = unreachable_by(channel, self._session, self._users)
            for user_id in self._users:
                if (user_id, channel.name) not in existing:
                    decision = self._decision(decisions[user_id, channel.name], channel, unreachable.get(user_id))
                    yield self._row(user_id, channel, decision)

    def _decision(self, decision: Decision, channel: Channel, unreachable: str | None) -> Decision:
        expires_at = self._notification.expires_at
        if unreachable is not None:
            return Decision(DeliveryState.SKIPPED, unreachable)
        if expires_at is not None and expires_at <= self._now:
            return Decision(DeliveryState.SKIPPED, EXPIRED)
        if channel.is_immediate and decision.state is not DeliveryState.SKIPPED:
            return Decision(DeliveryState.DELIVERED)
        return decision

    def _row(self, user_id: int, channel: Channel, decision: Decision) -> dict[str, Any]:
        is_delivered = decision.state is DeliveryState.DELIVERED
        is_sent = decision.state in (DeliveryState.QUEUED, DeliveryState.HELD)
        return {
            "id": new_id(),
            "school_id": self._notification.school_id,
            "notification_id": self._notification.id,
            "user_id": user_id,
            "channel": channel.name,
            "state": decision.state,
            "reason": decision.reason,
            "attempts": 0,
            "job_id": new_id() if is_sent and channel.name is NotificationChannel.PUSH else None,
            "email_id": new_id() if is_sent and channel.name is NotificationChannel.MAIL else None,
            "held_until": decision.held_until,
            "is_fallback": self._is_fallback,
            "is_passing": False,
            "created_at": self._now,
            "delivered_at": self._now if is_delivered else None,
        }

    def _enqueue_release(self, ends: Collection[datetime]) -> None:
        requests = [
            JobRequest(
                {"notification_id": self._notification.id, "held_until": end.isoformat()},
                unique_key=f"{RELEASE}/{self._notification.id}/{end.isoformat()}",
                scheduled_at=end,
            )
            for end in ends
        ]
        if requests:
            with _joining_batch():
                outbox.enqueue_many(RELEASE, requests)
