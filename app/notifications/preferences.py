"""What users want: when they get notifications of a type by a channel, and their quiet hours."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from app.notifications.models import DeliveryState, Notification, NotificationChannel


@dataclass(frozen=True)
class Decision:
    """What follows for one user and channel.

    Args:
        state: queued, held or skipped.
        reason: why it is held or skipped.
        held_until: the end of the quiet hours; None of a held one means that the digest delivers it.
    """

    state: DeliveryState
    reason: str | None = None
    held_until: datetime | None = None


def decide(
    session: Session, user_ids: Collection[int], notification: Notification, now: datetime
) -> Mapping[tuple[int, NotificationChannel], Decision]:
    """Return what follows for users, for each channel: of all channels, whatever those of the notification are."""
    return {(id, channel): Decision(DeliveryState.QUEUED) for id in user_ids for channel in NotificationChannel}
