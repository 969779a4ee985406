"""Sending, cancelling and retrying notifications. The caller has checked the permissions, and commits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from app import audit
from app.accounts import User, can, require
from app.notifications import content as contents
from app.notifications.audiences import insert_recipients
from app.notifications.channels import CHANNELS
from app.notifications.content import Content
from app.notifications.models import (
    DeliveryState,
    Notification,
    NotificationDelivery,
    NotificationRecipient,
    NotificationState,
)
from app.notifications.queries import get
from app.notifications.rules import SEND
from app.schools import School, is_disabled
from flask_belfry import outbox
from flask_belfry.changes import Subject, for_school
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.columns import new_id
from flask_belfry.db.lists import among
from flask_belfry.outbox import BatchStateError, JobRequest

DELIVER, FINISH = "notifications.deliver", "notifications.finish"
BATCH = "notifications.send"
# What is not delivered yet.
OPEN = (DeliveryState.QUEUED, DeliveryState.HELD, DeliveryState.DEFERRED)
_NO_SYNC = {"synchronize_session": False}


def send(content: Content, sender: User | None, school_id: int) -> Notification:
    """Accept a notification: write it, its recipients, and the batch that delivers it, in the caller's transaction.

    Args:
        content: what it says, and to whom.
        sender: the user who sends it; None is the system, for commands.
        school_id: the school.

    Raises:
        ForbiddenError: the sender may not send notifications of this school.
        NotFoundError: there is no such school.
        ConflictError: the school is disabled.
        InvalidInputError: names every invalid field, or the targets have no recipients.
    """
    check_sender(sender, school_id)
    contents.check(content, school_id)
    notification = Notification(id=new_id(), school_id=school_id, sender_id=sender.id if sender else None)
    for name, value in content.values().items():
        setattr(notification, name, value)
    subject, job_id = Subject("notification", notification.id), new_id()
    with for_school(school_id):
        args = {"notification_id": notification.id}
        with outbox.batch(BATCH, then=FINISH, then_args=args, subject=subject) as sending:
            notification.state, notification.batch_id = NotificationState.SENDING, sending.id
            notification.job_id = job_id
            db.session.add(notification)
            db.session.flush()
            insert_recipients(notification.id, school_id, content.targets)
            _check_recipients(notification.id)
            sending.enqueue_many(DELIVER, [JobRequest(args, id=job_id, subject=subject)])
        audit.record("notification.send", subject, details={"type": notification.type.value})
    return notification


def check_sender(sender: User | None, school_id: int) -> None:
    """Raise unless the sender may send notifications of the school, which is not disabled; see `send`."""
    if sender is not None:
        require(sender, SEND)
        if school_id != sender.school_id and not can(sender, "schools.view_all"):
            raise ForbiddenError("You can send notifications of your own school only.")
    school = db.session.get(School, school_id)
    if school is None:
        raise NotFoundError("This school does not exist.")
    if school.disabled_at is not None:
        raise ConflictError(f"{school.name} is disabled: it sends no notifications.")


def cancel(notification_id: str) -> Notification:
    """Cancel what is not delivered yet. A mail or a push message that is being sent at this moment may still arrive.

    Raises:
        NotFoundError: there is no such notification.
        ConflictError: it is cancelled already, or finished, and nothing of it waits for a digest or a later mail.
    """
    notification = _lock(notification_id)
    is_open = NotificationDelivery.notification_id == notification.id, NotificationDelivery.state.in_(OPEN)
    if notification.state is NotificationState.FINISHED:
        can_be_cancelled = db.session.scalar(sa.select(NotificationDelivery.id).where(*is_open).limit(1)) is not None
    else:
        can_be_cancelled = notification.state is NotificationState.SENDING
    if not can_be_cancelled:
        raise ConflictError(f"This notification is {notification.state} already.")
    notification.state, notification.finished_at = NotificationState.CANCELLED, utc_now()
    db.session.flush()
    with suppress(BatchStateError):  # its batch is finished
        outbox.cancel_batch(notification.batch_id)
    values = {"state": DeliveryState.CANCELLED, "reason": None, "held_until": None}
    db.session.execute(sa.update(NotificationDelivery).where(*is_open).values(values), execution_options=_NO_SYNC)
    with for_school(notification.school_id):
        audit.record("notification.cancel", Subject("notification", notification.id))
    return notification


def retry_failed(notification_id: str) -> int:
    """Enqueue the failed deliveries of a notification again, also when it is finished; its batch is open again.

    Returns:
        how many.

    Raises:
        NotFoundError: there is no such notification.
        ConflictError: it is cancelled or has expired, or its school is disabled.
    """
    notification = _lock(notification_id)
    if (problem := retry_problem(notification)) is not None:
        raise ConflictError(problem)
    failed = NotificationDelivery.notification_id == notification.id, NotificationDelivery.state == DeliveryState.FAILED
    deliveries = db.session.scalars(sa.select(NotificationDelivery).where(*failed)).all()
    # If its function failed, some recipients have no deliveries yet.
    outbox.retry([notification.job_id])
    count = retry_deliveries(notification, deliveries)
    with for_school(notification.school_id):
        audit.record("notification.retry", Subject("notification", notification.id), details={"deliveries": count})
    return count


def retry_problem(notification: Notification) -> str | None:
    """Return why nothing of a notification may be delivered any more, if so."""
    if notification.state is NotificationState.CANCELLED:
        return "This notification is cancelled."
    if notification.expires_at is not None and notification.expires_at <= utc_now():
        return "This notification has expired."
    return "The school is disabled: it sends no notifications." if is_disabled(notification.school_id) else None


def retry_deliveries(notification: Notification, deliveries: Sequence[NotificationDelivery]) -> int:
    """Enqueue failed deliveries of a notification, which is locked, again; return how many."""
    ids = set[str]()
    for name, channel in CHANNELS.items():
        if of_channel := [delivery for delivery in deliveries if delivery.channel is name]:
            ids |= channel.retry(db.session(), notification, of_channel)
    # After the jobs of all channels, in the order in which a transaction that ends them locks the deliveries.
    again = [delivery for delivery in deliveries if delivery.id in ids]
    for sent_by in (NotificationDelivery.email_id, NotificationDelivery.job_id):
        _queue_failed(sent_by, {getattr(delivery, sent_by.key) for delivery in again} - {None})
    return len(ids)


def _queue_failed(sent_by: InstrumentedAttribute[str | None], ids: Collection[str]) -> None:
    """Set the failed deliveries of some mails or jobs to `queued`: those of a digest are of several notifications."""
    if ids:
        is_failed = among(sent_by, "sent_by"), NotificationDelivery.state == DeliveryState.FAILED
        values = {"state": DeliveryState.QUEUED, "reason": None, "is_passing": False}
        queue = sa.update(NotificationDelivery).where(*is_failed).values(values)
        db.session.execute(queue, {"sent_by": list(ids)}, execution_options={"synchronize_session": "fetch"})


def lock_of_batches(session: Session, batch_ids: Sequence[str]) -> Sequence[Notification]:
    """Lock the notifications of batches until the commit, and return them with their current values."""
    query = sa.select(Notification).where(Notification.batch_id.in_(batch_ids)).order_by(Notification.id)
    return session.scalars(query.with_for_update(key_share=True), execution_options={"populate_existing": True}).all()


@outbox.on_batches_reopened(BATCH, lock=lock_of_batches)
def reopen(session: Session, batch_ids: Sequence[str]) -> None:
    """Set finished notifications back to `sending`: jobs of their batches are retried."""
    for notification in lock_of_batches(session, batch_ids):
        if notification.state is NotificationState.FINISHED:
            notification.state, notification.finished_at = NotificationState.SENDING, None
    session.flush()


def _lock(notification_id: str) -> Notification:
    return get(notification_id, for_update=True)


def _check_recipients(notification_id: str) -> None:
    of_it = NotificationRecipient.notification_id == notification_id, NotificationRecipient.left_out.is_(None)
    if db.session.scalar(sa.select(NotificationRecipient.id).where(*of_it).limit(1)) is None:
        raise InvalidInputError("There are no recipients.", {"targets": ["These targets have no recipients."]})
