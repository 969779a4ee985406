"""The channels: who cannot be reached by each, and the jobs that deliver."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.accounts import User
from app.notifications.emails import kind_of_type
from app.notifications.models import Notification, NotificationChannel, NotificationDelivery
from app.notifications.push_channel import Push
from app.notifications.reasons import SCHOOL_DISABLED
from app.schools import School
from flask_belfry.changes import Subject
from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.db.lists import among
from flask_belfry.mail import MailRequest, retry_mails, send_mails

DISABLED = "the account is disabled"
UNCONFIRMED = "the email address is not confirmed"

_USERS: Any = sa.inspect(User).local_table
_SCHOOLS = table_of(School)
_ACCOUNTS = (
    sa.select(_USERS.c.id, _USERS.c.email, _USERS.c.active, _USERS.c.confirmed_at, _SCHOOLS.c.disabled_at)
    .join(_SCHOOLS, _SCHOOLS.c.id == _USERS.c.school_id)
    .where(among(_USERS.c.id, "ids"))
)


@dataclass(frozen=True)
class Outgoing:
    """A delivery that was just written, or is tried again. `job_id` is to be the id of its job, `email_id` of its
    mail."""

    id: str
    user_id: int
    job_id: str | None = None
    email_id: str | None = None


class Channel(Protocol):
    """A way to people. Its methods run in the transaction of a page, with a fixed number of statements."""

    name: NotificationChannel
    # Whether a delivery is made by its row alone.
    is_immediate: bool

    def unreachable(self, session: Session, user_ids: Collection[int]) -> Mapping[int, str]:
        """Return why some of the users cannot be reached by this channel, by id. Callers use `unreachable_by`."""
        ...

    def enqueue(
        self,
        session: Session,
        notification: Notification,
        deliveries: Sequence[Outgoing],
        delay_by_id: Mapping[str, timedelta],
    ) -> None:
        """Enqueue what delivers; it joins the batch of the notification.

        Args:
            session: the session of the job.
            notification: the notification.
            deliveries: its deliveries by this channel.
            delay_by_id: how long some of them wait, by their ids.
        """
        ...

    def retry(
        self, session: Session, notification: Notification, deliveries: Sequence[NotificationDelivery]
    ) -> set[str]:
        """Enqueue failed deliveries again, and return the ids of those that are."""
        ...


class InApp:
    """The inbox of a user in the application."""

    name = NotificationChannel.IN_APP
    is_immediate = True

    def unreachable(self, session: Session, user_ids: Collection[int]) -> Mapping[int, str]:
        return {}

    def enqueue(
        self,
        session: Session,
        notification: Notification,
        deliveries: Sequence[Outgoing],
        delay_by_id: Mapping[str, timedelta],
    ) -> None:
        """Do nothing: the row is the delivery."""

    def retry(
        self, session: Session, notification: Notification, deliveries: Sequence[NotificationDelivery]
    ) -> set[str]:
        return set()


class Mail:
    """Mails by the ledger, one to each person. What becomes of them is written by `outcomes.record_mails`."""

    name = NotificationChannel.MAIL
    is_immediate = False

    def unreachable(self, session: Session, user_ids: Collection[int]) -> Mapping[int, str]:
        return {row.id: UNCONFIRMED for row in _accounts(session, user_ids) if row.confirmed_at is None}

    def enqueue(
        self,
        session: Session,
        notification: Notification,
        deliveries: Sequence[Outgoing],
        delay_by_id: Mapping[str, timedelta],
    ) -> None:
        emails = {row.id: row.email for row in _accounts(session, [each.user_id for each in deliveries])}
        subject, now = Subject("notification", notification.id), utc_now()
        requests = [
            MailRequest(
                [emails.get(each.user_id)],
                f"notification/{each.id}",
                {"delivery_id": each.id},
                subject,
                id=each.email_id,
                scheduled_at=now + delay_by_id[each.id] if each.id in delay_by_id else None,
                expires_at=notification.expires_at,
            )
            for each in deliveries
        ]
        send_mails(kind_of_type(notification.type), requests, queue="mail" if notification.is_critical else None)

    def retry(
        self, session: Session, notification: Notification, deliveries: Sequence[NotificationDelivery]
    ) -> set[str]:
        by_mail = {each.email_id: each.id for each in deliveries if each.email_id is not None}
        return {by_mail[id] for id in retry_mails(list(by_mail))}


def unreachable_by(channel: Channel, session: Session, user_ids: Collection[int]) -> dict[int, str]:
    """Return why some of the users cannot be reached, by id. By no channel is anything sent to disabled users, or for
    disabled schools."""
    reasons = dict(channel.unreachable(session, user_ids))
    for row in _accounts(session, user_ids):
        if not row.active:
            reasons[row.id] = DISABLED
        elif row.disabled_at is not None:
            reasons[row.id] = SCHOOL_DISABLED
    return reasons


def _accounts(session: Session, user_ids: Collection[int]) -> Iterable[Any]:
    return session.connection().execute(_ACCOUNTS, {"ids": list(user_ids)})


CHANNELS: Mapping[NotificationChannel, Channel] = {channel.name: channel for channel in (Mail(), Push(), InApp())}
