"""Scheduled notifications. Each has a delayed job for its time, and a sweep sends what the jobs have missed.

Both call `send_due`, which locks the row and sends it while it is scheduled: it is sent once. The caller commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import selectinload

from app.accounts import User
from app.directory import SchoolClass, Student
from app.notifications.content import Content, content_problems
from app.notifications.models import ScheduledNotification, ScheduledState
from app.notifications.services import check_sender, send
from app.schools import School, school_zone, zone_of
from app.web.local_time import utc_from_local
from flask_belfry.changes import for_school, subject_of
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text
from flask_belfry.db.lists import among
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page, page_by_key
from flask_belfry.db.tenancy import ALL_TENANTS, Scope, use_scope
from flask_belfry.execution import current_job
from flask_belfry.outbox import cancel, enqueue

log = structlog.get_logger(__name__)

JOB = "notifications.send_scheduled"
MAX_AHEAD = timedelta(days=366)
# Clocks of processes differ slightly: a job that a worker runs for its time must not find that it is too early.
EARLY = timedelta(seconds=1)
LIST_KEY = (ScheduledNotification.send_at, ScheduledNotification.id)
EXPIRED = "It expired before it was sent."


def schedule(content: Content, local_time: datetime, sender: User | None, school_id: int) -> ScheduledNotification:
    """Schedule a notification, flushed.

    Args:
        content: what it says and to whom. The targets are resolved when it is sent.
        local_time: naive, in the time zone of the school; of one that occurs twice, in autumn, the first.
        sender: the user who sends it; None is the school.
        school_id: the school.

    Raises:
        InvalidInputError: names every invalid field. The time does not exist in the zone, is in the past, or is more
            than a year ahead.
        ForbiddenError, NotFoundError, ConflictError: as `send`.
    """
    check_sender(sender, school_id)
    zone = school_zone(school_id)
    send_at = _checked(content, local_time, zone, school_id)
    row = ScheduledNotification(
        school_id=school_id,
        sender=sender,
        local_time=local_time,
        time_zone=zone.key,
        send_at=send_at,
        state=ScheduledState.SCHEDULED,
        **content.values(),
    )
    db.session.add(row)
    db.session.flush()
    _enqueue(row)
    return row


def reschedule(
    scheduled_id: str, *, content: Content | None = None, local_time: datetime | None = None
) -> ScheduledNotification:
    """Change the content or the time of a scheduled notification, flushed. None keeps what it has.

    Raises:
        NotFoundError: there is none.
        ConflictError: it was already sent or cancelled.
        InvalidInputError: as `schedule`.
    """
    row = _lock_unsent(scheduled_id)
    content = content or Content.of(row)
    if local_time is None or local_time == row.local_time:
        _check(content, row.send_at, row.school_id)
    else:
        zone = school_zone(row.school_id)
        send_at = _checked(content, local_time, zone, row.school_id)
        row.local_time, row.time_zone = local_time, zone.key
        _set_send_at(row, send_at)
    for name, value in content.values().items():
        setattr(row, name, value)
    db.session.flush()
    return row


def cancel_scheduled(scheduled_id: str) -> ScheduledNotification:
    """Cancel a scheduled notification, flushed. Raises NotFoundError, and ConflictError when it was already sent."""
    row = _lock_unsent(scheduled_id)
    row.state = ScheduledState.CANCELLED
    _cancel_job(row)
    db.session.flush()
    return row


def get_scheduled(scheduled_id: str, *, for_update: bool = False) -> ScheduledNotification:
    """Return a scheduled notification; `for_update` locks its row until the commit. Raises NotFoundError."""
    id = as_uuid_text(scheduled_id)
    query = sa.select(ScheduledNotification).where(ScheduledNotification.id == id)
    if for_update:
        query = query.with_for_update().execution_options(populate_existing=True)
    row = db.session.scalar(query) if id else None
    if row is None:
        raise NotFoundError("This scheduled notification does not exist.")
    return row


def page_scheduled(
    *,
    state: ScheduledState | None = None,
    school_id: int | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[ScheduledNotification]:
    """Return a page of scheduled notifications, the latest time first; of those that wait, the next one first."""
    query = sa.select(ScheduledNotification).options(selectinload(ScheduledNotification.sender))
    if state is not None:
        query = query.where(ScheduledNotification.state == state)
    if school_id is not None:
        query = query.where(ScheduledNotification.school_id == school_id)
    is_descending = state is not ScheduledState.SCHEDULED
    return page_by_key(db.session(), query, LIST_KEY, limit=limit, cursor=cursor, descending=is_descending)


def send_due(scheduled_id: str) -> str | None:
    """Send a scheduled notification whose time has come, in the current transaction.

    Returns:
        the id of the notification; None when it is not due, was sent or cancelled, or cannot be sent: then it is
        cancelled, and its `reason` says why.
    """
    query = sa.select(ScheduledNotification).where(
        ScheduledNotification.id == scheduled_id, ScheduledNotification.state == ScheduledState.SCHEDULED
    )
    row = db.session.scalar(query.with_for_update().execution_options(populate_existing=True))
    if row is None:
        return None
    _recompute(row, school_zone(row.school_id))
    if row.send_at > utc_now() + EARLY:
        return None
    if row.expires_at is not None and row.expires_at <= utc_now():
        return _give_up(row, EXPIRED)
    try:
        with db.session.begin_nested(), for_school(row.school_id):
            notification = send(_present_content(row), _sender_of(row), row.school_id)
    except (InvalidInputError, ConflictError) as error:  # such as a disabled school
        return _give_up(row, error.for_operators)
    row.state, row.notification_id = ScheduledState.SENT, notification.id
    db.session.flush()
    return notification.id


class SweepResult(NamedTuple):
    """What a sweep has done: numbers of scheduled notifications."""

    moved: int
    sent: int
    failed: int


def sweep_scheduled() -> SweepResult:
    """Compute the times of scheduled notifications again, and send those that are overdue. Called in a job.

    Each is committed alone: one that cannot be sent does not stop the others.
    """
    is_waiting = ScheduledNotification.state == ScheduledState.SCHEDULED
    columns = (*LIST_KEY, ScheduledNotification.school_id)
    of_time = (ScheduledNotification.local_time, ScheduledNotification.time_zone)
    moved = sent = failed = 0
    waiting = sa.select(*columns, *of_time).where(is_waiting)
    for page in current_job().steps(waiting, name="times", key=LIST_KEY):
        moved += _recompute_many(page)
    due = sa.select(*columns).where(is_waiting, ScheduledNotification.send_at <= utc_now())
    for page in current_job().steps(due, size=1, name="due", key=LIST_KEY):
        for row in page:
            try:
                with db.session.begin_nested(), use_scope(Scope(row.school_id)), for_school(row.school_id):
                    sent += send_due(row.id) is not None
            except SQLAlchemyError:
                raise
            except Exception:
                log.exception("scheduled_notification.not_sent", scheduled_id=row.id)
                failed += 1
    return SweepResult(moved, sent, failed)


def _recompute_many(rows: Iterable[Any]) -> int:
    """Compute the times of rows of scheduled notifications again; return how many were moved."""
    schools = sa.select(School.id, School.time_zone).where(School.id.in_({row.school_id for row in rows}))
    zones = {row.id: zone_of(row.time_zone) for row in db.session.execute(schools)}
    moved = 0
    for row in rows:
        zone = zones[row.school_id]
        if row.time_zone == zone.key and row.send_at == _moment(row.local_time, zone):
            continue
        with use_scope(Scope(row.school_id)):
            locked = get_scheduled(row.id, for_update=True)
            if locked.state is ScheduledState.SCHEDULED:
                moved += _recompute(locked, zone)
    return moved


def _recompute(row: ScheduledNotification, zone: ZoneInfo) -> bool:
    """Compute the time of a locked row again, and return whether it has moved: the zone of the school was changed, or
    the rules of the zone were. The local time stays."""
    row.time_zone = zone.key
    send_at = _moment(row.local_time, zone)
    if send_at == row.send_at:
        return False
    _set_send_at(row, send_at)
    return True


def _moment(local_time: datetime, zone: ZoneInfo) -> datetime:
    # One that no longer exists is read with the offset before the clocks go forward.
    return local_time.replace(tzinfo=zone, fold=0).astimezone(UTC)


def _set_send_at(row: ScheduledNotification, send_at: datetime) -> None:
    _cancel_job(row)
    row.send_at = send_at
    _enqueue(row)


def _enqueue(row: ScheduledNotification) -> None:
    with for_school(row.school_id):
        # While waiting: the job that an earlier time has started may run, and finds that it is too early.
        row.job_id = enqueue(
            JOB,
            unique_key=f"{JOB}/{row.id}",
            unique_while_waiting=True,
            scheduled_at=row.send_at,
            subject=subject_of(row),
            scheduled_id=row.id,
        )
    db.session.flush()


def _cancel_job(row: ScheduledNotification) -> None:
    if row.job_id is not None:
        cancel([row.job_id])


def _lock_unsent(scheduled_id: str) -> ScheduledNotification:
    row = get_scheduled(scheduled_id, for_update=True)
    if row.state is not ScheduledState.SCHEDULED:
        raise ConflictError(f"This notification was already {row.state}.")
    return row


def _give_up(row: ScheduledNotification, reason: str) -> None:
    row.state, row.reason = ScheduledState.CANCELLED, reason
    db.session.flush()
    log.warning("scheduled_notification.not_sent", scheduled_id=row.id, reason=reason)


def _sender_of(row: ScheduledNotification) -> User | None:
    """Return the user who sends it; None, the school, if the user was disabled or may not send notifications now."""
    if row.sender_id is None:
        return None
    with use_scope(ALL_TENANTS):  # an admin may be of another school
        sender = db.session.get(User, row.sender_id)
    try:
        check_sender(sender, row.school_id)
    except ForbiddenError:
        return None
    return sender


def _present_content(row: ScheduledNotification) -> Content:
    """Return the content without the targets that were deleted since: the others get it."""
    content = Content.of(row)
    models = {"users": User, "classes": SchoolClass, "students": Student}
    present = {name: _present(model, getattr(content.targets, name), row.school_id) for name, model in models.items()}
    return replace(content, targets=replace(content.targets, **present))


def _present(model: type[User | SchoolClass | Student], ids: Sequence[int], school_id: int) -> tuple[int, ...]:
    query = sa.select(model.id).where(among(model.id, "ids"), model.school_id == school_id)
    return tuple(db.session.scalars(query, {"ids": list(ids)})) if ids else ()


def _read_local_time(local_time: datetime, zone: ZoneInfo) -> datetime:
    """Return a local time in UTC. Raises ValueError, which says what is valid."""
    if local_time.tzinfo is not None:
        raise ValueError("must have no offset: it is in the time zone of the school")
    send_at = utc_from_local(local_time, zone)
    if send_at <= utc_now():
        raise ValueError("must be in the future")
    if send_at > utc_now() + MAX_AHEAD:
        raise ValueError("must be within a year")
    return send_at


def _checked(content: Content, local_time: datetime, zone: ZoneInfo, school_id: int) -> datetime:
    """Return a local time in UTC. Raises InvalidInputError, which names the invalid fields of the content too."""
    try:
        send_at = _read_local_time(local_time, zone)
    except ValueError as error:
        problems = content_problems(content, school_id) | {"local_time": [str(error)]}
        raise InvalidInputError("Some fields are invalid.", problems) from error
    _check(content, send_at, school_id)
    return send_at


def _check(content: Content, send_at: datetime, school_id: int) -> None:
    problems = content_problems(content, school_id)
    if content.expires_at is not None and content.expires_at <= send_at:
        problems["expires_at"] = ["must be after the time at which it is sent"]
    if problems:
        raise InvalidInputError("Some fields are invalid.", problems)
