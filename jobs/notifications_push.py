"""The job that sends push messages, in chunks."""

from __future__ import annotations

from app.notifications import push_delivery
from app.push import PushUnavailableError
from flask_belfry.execution import Chunk, RetryPolicy, job


def asked_delay(error: BaseException) -> float | None:
    """Return how long FCM asks to wait before the next attempt."""
    return error.retry_after_seconds if isinstance(error, PushUnavailableError) else None


RETRY = RetryPolicy(
    delays_seconds=(10, 30, 90, 270, 810),
    jitter=0.5,
    retry_on=push_delivery.PASSING,
    delay_from=asked_delay,
)


@job("notifications.push", queue="bulk", retry=RETRY, timeout_seconds=300, chunk=50, takes=("delivery_id",))
def deliver(chunk: Chunk) -> None:
    """Sends the notifications of the chunk to the devices of their recipients."""
    push_delivery.deliver(chunk)
