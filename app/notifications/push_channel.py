"""The channel of push messages to devices."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from app.notifications.models import Notification, NotificationChannel, NotificationDelivery

if TYPE_CHECKING:
    from app.notifications.channels import Outgoing

NO_DEVICE = "no device"


class Push:
    """Messages to all devices of a person."""

    name = NotificationChannel.PUSH
    is_immediate = False

    def unreachable(self, session: Session, user_ids: Collection[int]) -> Mapping[int, str]:
        return dict.fromkeys(user_ids, NO_DEVICE)

    def enqueue(
        self,
        session: Session,
        notification: Notification,
        deliveries: Sequence[Outgoing],
        delay_by_id: Mapping[str, timedelta],
    ) -> None:
        """Do nothing: no device can be reached yet."""

    def retry(
        self, session: Session, notification: Notification, deliveries: Sequence[NotificationDelivery]
    ) -> set[str]:
        return set()
