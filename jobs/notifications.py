"""Jobs of notifications and their schedule."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app import notifications
from flask_belfry.execution import Chunk, job
from flask_belfry.scheduler import ScheduleEntry


@job("notifications.deliver", queue="default")
def deliver(session: Session, notification_id: str) -> dict[str, int]:
    """Writes the deliveries of a notification and enqueues what delivers them."""
    return notifications.delivering.deliver(session, notification_id)


@job("notifications.release_held", queue="bulk")
def release_held(session: Session, notification_id: str, held_until: str) -> dict[str, int]:
    """Delivers what quiet hours held until this time."""
    return notifications.delivering.release_held(session, notification_id, held_until)


@job("notifications.fall_back", queue="bulk")
def fall_back(session: Session, notification_id: str) -> dict[str, int]:
    """Mails those whom the push messages of a notification have not reached in time."""
    return notifications.delivering.fall_back(session, notification_id)


@job("notifications.retry_failed_deliveries", queue="bulk", is_singleton=True)
def retry_failed_deliveries(session: Session) -> dict[str, int]:
    """Retries the deliveries of the last day that failed for reasons that may pass, and releases what is overdue."""
    return notifications.delivering.retry_failed_deliveries(session)


@job(
    "notifications.push",
    queue="bulk",
    retry=notifications.push_delivery.RETRY,
    timeout_seconds=300,
    chunk=50,
    takes=("delivery_id",),
)
def push(chunk: Chunk) -> None:
    """Sends the notifications of the chunk to the devices of their recipients."""
    notifications.push_delivery.deliver(chunk)


@job("notifications.send_digests", queue="bulk", timeout_seconds=600, is_singleton=True)
def send_digests(session: Session) -> dict[str, int]:
    """Enqueues the daily digests of those people for whom it is NOTIFICATION_DIGEST_HOUR, or was."""
    return notifications.digests.send_digests(session)


@job("notifications.finish", queue="default")
def finish(session: Session, notification_id: str) -> None:
    """Marks a notification as finished when all jobs of its batch have ended."""
    notifications.delivering.finish(session, notification_id)


@job("notifications.send_scheduled")
def send_scheduled(session: Session, scheduled_id: str) -> dict[str, str | None]:
    """Sends a scheduled notification at its time."""
    return {"notification_id": notifications.send_due(scheduled_id)}


@job("notifications.sweep_scheduled", timeout_seconds=300, is_singleton=True)
def sweep_scheduled(session: Session) -> dict[str, int]:
    """Sends the scheduled notifications that their own jobs have missed, and follows changes of time zones."""
    return notifications.sweep_scheduled()._asdict()


SCHEDULE = [
    ScheduleEntry(
        "notifications.retry_failed_deliveries", job="notifications.retry_failed_deliveries", cron="30 * * * *"
    ),
    # The offsets of all time zones are multiples of 15 minutes.
    ScheduleEntry("notifications.send_digests", job="notifications.send_digests", cron="*/15 * * * *"),
    ScheduleEntry(
        "notifications.sweep_scheduled",
        job="notifications.sweep_scheduled",
        every="SCHEDULED_NOTIFICATIONS_SWEEP_SECONDS",
    ),
]
