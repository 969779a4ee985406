"""The channel of push messages to devices."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from app.notifications.models import Notification, NotificationChannel, NotificationDelivery
from app.push import NOT_CONFIGURED, is_configured, users_with_devices
from flask_belfry.changes import Subject
from flask_belfry.core.clock import utc_now
from flask_belfry.outbox import JobRequest, enqueue_many, retry

if TYPE_CHECKING:
    from app.notifications.channels import Outgoing

PUSH = "notifications.push"
NO_DEVICE = "no device"


class Push:
    """Messages to all devices of a person: one job for each delivery. What becomes of them is written by
    `push_delivery`."""

    name = NotificationChannel.PUSH
    is_immediate = False

    def unreachable(self, session: Session, user_ids: Collection[int]) -> Mapping[int, str]:
        if not is_configured():
            return dict.fromkeys(user_ids, NOT_CONFIGURED)
        return dict.fromkeys(set(user_ids) - users_with_devices(session, user_ids), NO_DEVICE)

    def enqueue(
        self,
        session: Session,
        notification: Notification,
        deliveries: Sequence[Outgoing],
        delay_by_id: Mapping[str, timedelta],
    ) -> None:
        subject, now = Subject("notification", notification.id), utc_now()
        requests = [
            JobRequest(
                {"delivery_id": each.id},
                id=each.job_id,
                subject=subject,
                scheduled_at=now + delay_by_id[each.id] if each.id in delay_by_id else None,
                expires_at=notification.expires_at,
                queue="default" if notification.is_critical else None,
            )
            for each in deliveries
        ]
        enqueue_many(PUSH, requests)

    def retry(
        self, session: Session, notification: Notification, deliveries: Sequence[NotificationDelivery]
    ) -> set[str]:
        retried = set(retry(list({each.job_id for each in deliveries if each.job_id is not None})))
        return {each.id for each in deliveries if each.job_id in retried}
