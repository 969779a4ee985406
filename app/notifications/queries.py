"""Queries of notifications and deliveries, and the inbox of a user."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import joinedload, selectinload

from app.accounts import User
from app.directory import Student
from app.notifications.audiences import is_enrolled
from app.notifications.content import Targets
from app.notifications.models import (
    DeliveryState,
    Notification,
    NotificationChannel,
    NotificationDelivery,
    NotificationRecipient,
    NotificationState,
    NotificationType,
)
from app.schools import school_zone
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import NotFoundError
from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text
from flask_belfry.db.lists import among
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page, page_by_key

# The most students that `unreached_students` returns.
MAX_UNREACHED = 500
Counts = dict[str, dict[str, dict[str, int]]]


@dataclass(frozen=True)
class Filters:
    """Filters of a list of notifications; None matches all of them."""

    state: NotificationState | None = None
    type: NotificationType | None = None
    sender_id: int | None = None
    school_id: int | None = None
    text: str | None = None


@dataclass(frozen=True)
class Guardianship:
    """A person whom a notification was for because of a student: their deliveries, or why they were left out."""

    user: User
    left_out: str | None
    deliveries: Sequence[NotificationDelivery]


@dataclass(frozen=True)
class UnreachedStudent:
    """A student about whom no channel has reached a guardian; without people, the student has no guardians."""

    student: Student
    people: Sequence[Guardianship]


def get(notification_id: str, *, for_update: bool = False) -> Notification:
    """Return a notification of the current scope.

    Args:
        notification_id: its id.
        for_update: lock the row until the commit, and read its current values.

    Raises:
        NotFoundError: there is none.
    """
    id = as_uuid_text(notification_id)
    query = sa.select(Notification).where(Notification.id == id)
    if for_update:
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    found = db.session.scalar(query) if id else None
    if found is None:
        raise NotFoundError("This notification does not exist.")
    return found


def page(
    filters: Filters | None = None, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[Notification]:
    """Return one page of the notifications of the current scope, newest first, with their senders."""
    filters = filters or Filters()
    query = sa.select(Notification).options(selectinload(Notification.sender))
    if filters.state is not None:
        query = query.where(Notification.state == filters.state)
    if filters.type is not None:
        query = query.where(Notification.type == filters.type)
    if filters.sender_id is not None:
        query = query.where(Notification.sender_id == filters.sender_id)
    if filters.school_id is not None:
        query = query.where(Notification.school_id == filters.school_id)
    if filters.text:
        query = query.where(Notification.title.icontains(filters.text, autoescape=True))
    return page_by_key(db.session(), query, (Notification.id,), limit=limit, cursor=cursor)


def page_deliveries(
    notification_id: str,
    *,
    state: DeliveryState | None = None,
    channel: NotificationChannel | None = None,
    user_id: int | None = None,
    student_id: int | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[NotificationDelivery]:
    """Return one page of the deliveries of a notification, newest first, with their users. Raises NotFoundError.

    Args:
        notification_id: the notification.
        state, channel: only those.
        user_id: to one user.
        student_id: to the guardians of one student, who are not left out.
        limit, cursor: the page.
    """
    query = sa.select(NotificationDelivery).where(NotificationDelivery.notification_id == get(notification_id).id)
    if state is not None:
        query = query.where(NotificationDelivery.state == state)
    if channel is not None:
        query = query.where(NotificationDelivery.channel == channel)
    if user_id is not None:
        query = query.where(NotificationDelivery.user_id == user_id)
    if student_id is not None:
        about = sa.select(NotificationRecipient.user_id).where(
            NotificationRecipient.notification_id == NotificationDelivery.notification_id,
            NotificationRecipient.student_id == student_id,
            NotificationRecipient.left_out.is_(None),
        )
        query = query.where(NotificationDelivery.user_id.in_(about))
    query = query.options(selectinload(NotificationDelivery.user))
    return page_by_key(db.session(), query, (NotificationDelivery.id,), limit=limit, cursor=cursor)


def counts(notification_ids: Collection[str]) -> Counts:
    """Return how many deliveries notifications have, by notification, channel and state."""
    columns = NotificationDelivery.notification_id, NotificationDelivery.channel, NotificationDelivery.state
    query = sa.select(*columns, sa.func.count()).where(among(NotificationDelivery.notification_id, "ids"))
    found: Counts = {id: defaultdict(dict) for id in notification_ids}
    for id, channel, state, count in db.session.execute(query.group_by(*columns), {"ids": list(notification_ids)}):
        found[id][channel.value][state.value] = count
    return found


def count_recipients(notification_id: str) -> tuple[int, int]:
    """Return how many people a notification is for, and how many are left out."""
    columns = (
        NotificationRecipient.user_id,
        sa.func.min(sa.case((NotificationRecipient.left_out.is_(None), 0), else_=1)),
    )
    query = sa.select(columns[1].label("is_out")).where(NotificationRecipient.notification_id == notification_id)
    by_user = query.group_by(columns[0]).subquery()
    total, out = db.session.execute(sa.select(sa.func.count(), sa.func.sum(by_user.c.is_out))).one()
    return total - (out or 0), out or 0


def left_out(notification_id: str, limit: int = MAX_UNREACHED) -> Sequence[NotificationRecipient]:
    """Return who is left out of a notification because of which student, with the reasons."""
    query = sa.select(NotificationRecipient).where(
        NotificationRecipient.notification_id == notification_id, NotificationRecipient.left_out.is_not(None)
    )
    query = query.options(selectinload(NotificationRecipient.user), selectinload(NotificationRecipient.student))
    return db.session.scalars(query.order_by(NotificationRecipient.id).limit(limit)).all()


def unreached_students(notification_id: str, limit: int = MAX_UNREACHED) -> Sequence[UnreachedStudent]:
    """Return the students about whom no guardian was reached by any channel, by name.

    A mail or a push message reaches when it is delivered, and a notification in the app when it is read.

    Args:
        notification_id: the notification.
        limit: the most students.

    Raises:
        NotFoundError: there is no such notification.
    """
    notification = get(notification_id)
    is_recipient = NotificationRecipient.student_id == Student.id
    of_it = NotificationRecipient.notification_id == notification.id
    reached = sa.exists().where(
        of_it, is_recipient, NotificationRecipient.left_out.is_(None), _is_reached(NotificationRecipient.user_id)
    )
    named = sa.or_(sa.exists().where(of_it, is_recipient), *_named_students(notification))
    query = sa.select(Student).where(Student.school_id == notification.school_id, named, ~reached)
    query = query.options(selectinload(Student.school_class)).order_by(Student.name, Student.id).limit(limit)
    students = db.session.scalars(query, _ids_of_targets(notification)).all()
    people = _people(notification.id, [student.id for student in students])
    return [UnreachedStudent(student, people.get(student.id, [])) for student in students]


def inbox(
    user: User, *, unread_only: bool = False, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[NotificationDelivery]:
    """Return one page of the notifications in the inbox of a user, newest first: the deliveries in the app."""
    query = sa.select(NotificationDelivery).where(*_in_inbox(user))
    if unread_only:
        query = query.where(NotificationDelivery.read_at.is_(None))
    query = query.options(joinedload(NotificationDelivery.notification).joinedload(Notification.sender))
    return page_by_key(db.session(), query, (NotificationDelivery.id,), limit=limit, cursor=cursor)


def inbox_entry(user: User, delivery_id: str) -> NotificationDelivery:
    """Return an entry of the inbox of a user. Raises NotFoundError."""
    id = as_uuid_text(delivery_id)
    query = sa.select(NotificationDelivery).where(NotificationDelivery.id == id, *_in_inbox(user))
    found = db.session.scalar(query.options(joinedload(NotificationDelivery.notification))) if id else None
    if found is None:
        raise NotFoundError("This notification does not exist.")
    return found


def unread_count(user: User) -> int:
    """Return how many notifications in the inbox of a user are unread."""
    query = sa.select(sa.func.count()).where(*_in_inbox(user), NotificationDelivery.read_at.is_(None))
    return db.session.scalar(query) or 0


def mark_read(user: User, delivery_id: str) -> NotificationDelivery:
    """Mark an entry of the inbox as read; the first time counts. The caller commits. Raises NotFoundError."""
    entry = inbox_entry(user, delivery_id)
    entry.read_at = entry.read_at or utc_now()
    db.session.flush()
    return entry


def mark_all_read(user: User) -> int:
    """Mark all entries of the inbox as read, and return how many. The caller commits."""
    unread = sa.update(NotificationDelivery).where(*_in_inbox(user), NotificationDelivery.read_at.is_(None))
    result: Any = db.session.execute(unread.values(read_at=utc_now()))
    return result.rowcount


def _in_inbox(user: User) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        NotificationDelivery.user_id == user.id,
        NotificationDelivery.channel == NotificationChannel.IN_APP,
        NotificationDelivery.state == DeliveryState.DELIVERED,
    )


def _is_reached(user_id: Any) -> sa.ColumnElement[bool]:
    is_seen = sa.or_(
        NotificationDelivery.channel != NotificationChannel.IN_APP, NotificationDelivery.read_at.is_not(None)
    )
    return sa.exists().where(
        NotificationDelivery.notification_id == NotificationRecipient.notification_id,
        NotificationDelivery.user_id == user_id,
        NotificationDelivery.state == DeliveryState.DELIVERED,
        is_seen,
    )


def _named_students(notification: Notification) -> list[sa.ColumnElement[bool]]:
    """Return the conditions for students whom the targets name: some may have no guardians."""
    targets = Targets.from_json(notification.targets)
    conditions: list[sa.ColumnElement[bool]] = []
    if targets.students:
        conditions.append(among(Student.id, "students"))
    if targets.classes:
        day = notification.created_at.astimezone(school_zone(notification.school_id)).date()
        conditions.append(sa.and_(among(Student.class_id, "classes"), is_enrolled(day)))
    return conditions


def _ids_of_targets(notification: Notification) -> dict[str, list[int]]:
    targets = Targets.from_json(notification.targets)
    ids = {"students": list(targets.students), "classes": list(targets.classes)}
    return {name: values for name, values in ids.items() if values}


def _people(notification_id: str, student_ids: Collection[int]) -> dict[int, list[Guardianship]]:
    of_it = NotificationRecipient.notification_id == notification_id
    query = sa.select(NotificationRecipient).where(of_it, among(NotificationRecipient.student_id, "ids"))
    query = query.options(selectinload(NotificationRecipient.user)).order_by(NotificationRecipient.id)
    recipients = db.session.scalars(query, {"ids": list(student_ids)}).all()
    made = sa.select(NotificationDelivery).where(
        NotificationDelivery.notification_id == notification_id, among(NotificationDelivery.user_id, "ids")
    )
    by_user: defaultdict[int, list[NotificationDelivery]] = defaultdict(list)
    user_ids = sorted({recipient.user_id for recipient in recipients})
    for delivery in db.session.scalars(made.order_by(NotificationDelivery.id), {"ids": user_ids}):
        by_user[delivery.user_id].append(delivery)
    people: defaultdict[int, list[Guardianship]] = defaultdict(list)
    for each in recipients:
        if each.student_id is not None:
            people[each.student_id].append(Guardianship(each.user, each.left_out, by_user[each.user_id]))
    return people
