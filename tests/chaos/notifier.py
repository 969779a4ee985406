"""The part of the load that sends, schedules, cancels and retries notifications."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from app import notifications
from app.notifications import (
    Content,
    DeliveryState,
    Notification,
    NotificationDelivery,
    NotificationState,
    NotificationType,
    ScheduledNotification,
    ScheduledState,
    Targets,
)
from app.schools import school_zone
from flask_belfry import outbox
from flask_belfry.core.clock import utc_now
from flask_belfry.mail import EmailMessage
from tests.chaos.book import UNDONE, Fate
from tests.chaos.domain import AuditEvent, Cancel, CancelledJob
from tests.chaos.transactions import OfSchool, transact

SHARES = {
    "send": 50,
    "schedule": 15,
    "cancel": 15,
    "change a scheduled one": 10,
    "retry": 10,
    "cancel jobs": 8,
    "retry jobs": 8,
}
MAX_JOBS = 5
# How many people a notification is for, and how often.
SIZES = {(1, 3): 60, (4, 30): 30, (50, 200): 10}
CHANNELS = (("mail", "push", "in_app"), ("mail", "push"), ("push",), ("mail",), ("in_app",))
# Of those that a mail follows, see NOTIFICATION_FALLBACK_MINUTES of the stack.
FALL_BACKS = 0.15


class Notifier:
    """Transactions about the notifications of one school."""

    def __init__(self, app: Flask, school: OfSchool, dice: random.Random) -> None:
        self._app = app
        self._school = school
        self._dice = dice

    def __call__(self, key: str) -> Fate:
        """Make one transaction; it commits or is rolled back on purpose, or fails."""
        acts: dict[str, Callable[[Session, str], None]] = {
            "send": self._send,
            "schedule": self._schedule,
            "cancel": self._cancel,
            "change a scheduled one": self._change_scheduled,
            "retry": self._retry,
            "cancel jobs": self._cancel_jobs,
            "retry jobs": self._retry_cancelled_jobs,
        }
        name = self._dice.choices(list(SHARES), list(SHARES.values()))[0]
        is_meant = self._dice.random() < 0.85

        def fill(session: Session) -> bool:
            session.add(AuditEvent(key=key, effects=[]))
            acts[name](session, key)
            return is_meant

        return transact(self._app, self._school.id, fill)

    def _send(self, session: Session, key: str) -> None:
        notifications.send(self._content(key), None, self._school.id)
        if self._dice.random() < 0.2:
            savepoint = session.begin_nested()
            notifications.send(self._content(key + UNDONE), None, self._school.id)
            session.flush()
            savepoint.rollback()

    def _schedule(self, session: Session, key: str) -> None:
        notifications.schedule(self._content(key), self._local_time(), None, self._school.id)

    def _cancel(self, session: Session, key: str) -> None:
        query = sa.select(Notification.id).where(Notification.state == NotificationState.SENDING)
        if id := self._one(session, query.order_by(Notification.id.desc()).limit(5)):
            notifications.cancel(id)
            session.add(Cancel(key=key, notification_id=id))

    def _change_scheduled(self, session: Session, key: str) -> None:
        is_waiting = ScheduledNotification.state == ScheduledState.SCHEDULED
        if id := self._one(session, sa.select(ScheduledNotification.id).where(is_waiting).limit(5)):
            if self._dice.random() < 0.5:
                notifications.cancel_scheduled(id)
            else:
                notifications.reschedule(id, local_time=self._local_time())

    def _retry(self, session: Session, key: str) -> None:
        """Retry the failed deliveries of a notification, while another user retries their jobs."""
        is_failed = NotificationDelivery.state == DeliveryState.FAILED
        id = self._one(session, sa.select(NotificationDelivery.notification_id).where(is_failed).distinct().limit(20))
        if id is None:
            return
        failed = NotificationDelivery.notification_id == id, is_failed
        jobs = self._jobs(session, *failed)
        session.rollback()
        session.add(AuditEvent(key=key, effects=[]))
        other = threading.Thread(target=self._retry_jobs, args=(jobs,))
        other.start()
        try:
            notifications.retry_failed(id)
        finally:
            # The other one may wait for the locks of this transaction, and ends after it.
            other.join(0.05)

    def _cancel_jobs(self, session: Session, key: str) -> None:
        is_open = NotificationDelivery.state.in_([DeliveryState.QUEUED, DeliveryState.DEFERRED])
        jobs = self._jobs(session, is_open)
        chosen = self._dice.sample(jobs, min(len(jobs), MAX_JOBS))
        outbox.cancel(chosen)
        session.add_all(CancelledJob(job_id=id) for id in chosen)

    def _retry_cancelled_jobs(self, session: Session, key: str) -> None:
        jobs = session.scalars(sa.select(CancelledJob.job_id)).all()
        outbox.retry(self._dice.sample(jobs, min(len(jobs), MAX_JOBS)))

    def _jobs(self, session: Session, *conditions: sa.ColumnElement[bool]) -> list[str]:
        """Return the ids of the jobs of deliveries by mail and push."""
        of_mails = sa.select(EmailMessage.job_id).join(
            NotificationDelivery, NotificationDelivery.email_id == EmailMessage.id
        )
        of_pushes = sa.select(NotificationDelivery.job_id)
        found = [id for query in (of_mails, of_pushes) for id in session.scalars(query.where(*conditions).limit(1_000))]
        return [id for id in found if id is not None]

    def _retry_jobs(self, ids: list[str]) -> None:
        def fill(session: Session) -> bool:
            outbox.retry(ids)
            return True

        transact(self._app, self._school.id, fill)

    def _one(self, session: Session, query: sa.Select[Any]) -> str | None:
        found = session.scalars(query).all()
        return self._dice.choice(found) if found else None

    def _content(self, key: str) -> Content:
        most = self._dice.choices(list(SIZES), list(SIZES.values()))[0]
        number = min(self._dice.randint(*most), len(self._school.people))
        type_, channels = self._dice.choice(list(NotificationType)), self._dice.choice(CHANNELS)
        if self._dice.random() < FALL_BACKS:
            type_, channels = NotificationType.PAYMENT, ("push",)
        return Content(
            title=key,
            body="The school is closed tomorrow.",
            type=type_,
            targets=Targets(users=tuple(self._dice.sample(self._school.people, number))),
            is_critical=self._dice.random() < 0.1,
            channels=channels,
        )

    def _local_time(self) -> datetime:
        send_at = utc_now() + timedelta(seconds=self._dice.uniform(2, 15))
        return send_at.astimezone(school_zone(self._school.id)).replace(tzinfo=None)
