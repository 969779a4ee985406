"""The people that targets stand for, as one query: who gets a notification, about whom, and who is left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.accounts import Role, User
from app.directory import Guardian, Student
from app.notifications.content import Targets
from app.notifications.models import NotificationRecipient
from app.schools import school_zone
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db, table_of
from flask_belfry.db.lists import among

LEFT_OUT_CHARACTERS = 200
RESTRICTED = "contact restriction"
NAMES_SHOWN = 5

_USERS: Any = sa.inspect(User).local_table
_STUDENTS, _GUARDIANS = table_of(Student), table_of(Guardian)
# A restriction is about a student. A parent of no other student is at the school because of that one.
_IS_RESTRICTED_PARENT = sa.and_(
    _USERS.c.role == Role.MEMBER,
    sa.exists().where(_GUARDIANS.c.user_id == _USERS.c.id, _GUARDIANS.c.is_restricted),
    ~sa.exists().where(_GUARDIANS.c.user_id == _USERS.c.id, ~_GUARDIANS.c.is_restricted),
)
_NO_TEXT = sa.cast(sa.null(), sa.String(LEFT_OUT_CHARACTERS))
_NO_STUDENT = sa.cast(sa.null(), sa.Integer)


@dataclass(frozen=True)
class RestrictedContact:
    """A person who may not be contacted about a student."""

    user_id: int
    name: str
    student_id: int
    student: str


@dataclass(frozen=True)
class Audience:
    """How many people targets stand for at present, the first names of them, and how many are left out.

    Args:
        count: the number of people.
        names: the first of them.
        left_out: the number of people who are left out.
        restricted: contact restrictions of people who are targets themselves, the first of them: the notification is
            about no student then, so they get it.
        restricted_count: the number of these restrictions.
    """

    count: int
    names: Sequence[str]
    left_out: int
    restricted: Sequence[RestrictedContact] = ()
    restricted_count: int = 0


def today_of(school_id: int) -> date:
    """Return the current day at a school, in its time zone."""
    return utc_now().astimezone(school_zone(school_id)).date()


def recipients(targets: Targets, school_id: int, today: date) -> sa.CompoundSelect[*tuple[Any, ...]]:
    """Return the query of the recipients: `user_id`, `student_id` and `left_out`, each combination once.

    It is of tables, for a connection: the school is a condition of each part.
    """
    parts: list[sa.Select[*tuple[Any, ...]]] = []
    if targets.users:
        parts.append(_users(school_id).where(among(_USERS.c.id, "users")).params(users=list(targets.users)))
    if targets.everyone:
        parts.append(_members(school_id))
    elif targets.roles:
        parts.append(_members(school_id).where(_USERS.c.role.in_(list(targets.roles))))
    if targets.students:
        named = among(_STUDENTS.c.id, "students")
        parts.append(_guardians(school_id).where(named).params(students=list(targets.students)))
    if targets.classes:
        of_class = _guardians(school_id).where(among(_STUDENTS.c.class_id, "classes"), is_enrolled(today))
        parts.append(of_class.params(classes=list(targets.classes)))
    return sa.union(*parts)


def is_enrolled(today: date) -> sa.ColumnElement[bool]:
    """Return the condition that a student of the table `students` is enrolled on a day."""
    left_on = _STUDENTS.c.left_on
    return sa.and_(_STUDENTS.c.enrolled_on <= today, sa.or_(left_on.is_(None), left_on > today))


def insert_recipients(notification_id: str, school_id: int, targets: Targets) -> int:
    """Write the recipients of a notification with one statement; return how many rows there are."""
    found = recipients(targets, school_id, today_of(school_id)).subquery()
    query = sa.select(
        sa.literal(school_id, sa.Integer),
        sa.literal(notification_id, NotificationRecipient.notification_id.type),
        *found.c,
    )
    table = table_of(NotificationRecipient)
    columns = ["school_id", "notification_id", "user_id", "student_id", "left_out"]
    return db.session.connection().execute(sa.insert(table).from_select(columns, query)).rowcount


def audience(school_id: int, targets: Targets, limit: int = NAMES_SHOWN) -> Audience:
    """Return whom targets stand for at present: the caller has checked them with `content.target_problems`.

    Args:
        school_id: the school.
        targets: the targets.
        limit: the most names.
    """
    found = recipients(targets, school_id, today_of(school_id)).subquery()
    gets = sa.select(found.c.user_id).where(found.c.left_out.is_(None))
    connection = db.session.connection()
    count = connection.scalar(sa.select(sa.func.count(sa.distinct(found.c.user_id))).where(found.c.left_out.is_(None)))
    is_out = found.c.user_id.not_in(gets)
    left_out = connection.scalar(sa.select(sa.func.count(sa.distinct(found.c.user_id))).where(is_out))
    names = sa.select(_USERS.c.name).where(_USERS.c.id.in_(gets)).order_by(_USERS.c.name, _USERS.c.id).limit(limit)
    restricted, restricted_count = _restricted_contacts(targets, school_id, limit) if targets.users else ([], 0)
    return Audience(count or 0, list(connection.execute(names).scalars()), left_out or 0, restricted, restricted_count)


def _restricted_contacts(targets: Targets, school_id: int, limit: int) -> tuple[list[RestrictedContact], int]:
    """Return the first contact restrictions of the people who are targets themselves, and how many there are."""
    columns = _USERS.c.id, _USERS.c.name, _STUDENTS.c.id, _STUDENTS.c.name, sa.func.count().over()
    query = (
        sa.select(*columns)
        .join(_GUARDIANS, _GUARDIANS.c.user_id == _USERS.c.id)
        .join(_STUDENTS, _STUDENTS.c.id == _GUARDIANS.c.student_id)
        .where(among(_USERS.c.id, "users"), _USERS.c.school_id == school_id, _GUARDIANS.c.is_restricted)
        .order_by(_USERS.c.name, _USERS.c.id, _STUDENTS.c.name, _STUDENTS.c.id)
        .limit(limit)
    )
    rows = db.session.connection().execute(query, {"users": list(targets.users)}).all()
    return [RestrictedContact(*row[:4]) for row in rows], rows[0][4] if rows else 0


def no_longer_contacted(
    session: Session, notification_ids: Collection[str], user_ids: Collection[int]
) -> set[tuple[str, int]]:
    """Return the recipients, by notification and user, who were restricted or are no guardians any more since it was
    sent: they may not be contacted about any of the students for whose sake they are recipients."""
    recipient = NotificationRecipient
    is_guardian = sa.and_(Guardian.student_id == recipient.student_id, Guardian.user_id == recipient.user_id)
    # NULL, which is not true, without a guardian.
    is_contacted = sa.case((sa.or_(recipient.student_id.is_(None), ~Guardian.is_restricted), 1), else_=0)
    query = (
        sa.select(recipient.notification_id, recipient.user_id)
        .outerjoin(Guardian, is_guardian)
        .where(
            among(recipient.notification_id, "notifications"),
            among(recipient.user_id, "users"),
            recipient.left_out.is_(None),
        )
        .group_by(recipient.notification_id, recipient.user_id)
        .having(sa.func.max(is_contacted) == 0)
    )
    values = {"notifications": list(set(notification_ids)), "users": list(set(user_ids))}
    return {(row.notification_id, row.user_id) for row in session.execute(query, values)}


def _row(*values: Any) -> sa.Select[*tuple[Any, ...]]:
    names = ("user_id", "student_id", "left_out")
    query: Any = sa.select(*(value.label(name) for name, value in zip(names, values, strict=True)))
    return query


def _users(school_id: int) -> sa.Select[*tuple[Any, ...]]:
    return _row(_USERS.c.id, _NO_STUDENT, _NO_TEXT).where(_USERS.c.school_id == school_id)


def _members(school_id: int) -> sa.Select[*tuple[Any, ...]]:
    reason = sa.case((_IS_RESTRICTED_PARENT, RESTRICTED), else_=_NO_TEXT)
    return _row(_USERS.c.id, _NO_STUDENT, reason).where(_USERS.c.school_id == school_id, _USERS.c.active)


def _guardians(school_id: int) -> sa.Select[*tuple[Any, ...]]:
    said = sa.func.substr(RESTRICTED + ": " + _GUARDIANS.c.restriction_reason, 1, LEFT_OUT_CHARACTERS)
    reason = sa.case((_GUARDIANS.c.is_restricted, sa.func.coalesce(said, RESTRICTED)), else_=_NO_TEXT)
    query = _row(_GUARDIANS.c.user_id, _GUARDIANS.c.student_id, reason)
    return query.join(_STUDENTS, _STUDENTS.c.id == _GUARDIANS.c.student_id).where(_STUDENTS.c.school_id == school_id)
