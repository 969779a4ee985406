"""Queries of classes, students and guardians. All of them are for staff: their callers have checked that."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import joinedload, selectinload

from app.directory.models import Guardian, SchoolClass, Student
from flask_belfry.core.errors import NotFoundError
from flask_belfry.db import db
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page, page_by_key


@dataclass(frozen=True)
class Filters:
    """Filters of a list of students.

    Args:
        class_id: those of one class.
        text: in the name or the number.
        enrolled_on: those who are enrolled on this day.
        not_enrolled_on: those who are not.
    """

    class_id: int | None = None
    text: str | None = None
    enrolled_on: date | None = None
    not_enrolled_on: date | None = None


def enrolled(day: date) -> sa.ColumnElement[bool]:
    """Return the condition that a student is enrolled on a day."""
    return sa.and_(Student.enrolled_on <= day, sa.or_(Student.left_on.is_(None), Student.left_on > day))


def get_class(class_id: int, *, for_update: bool = False) -> SchoolClass:
    """Return a class, optionally locked until the commit. Raises NotFoundError."""
    return _get(sa.select(SchoolClass).where(SchoolClass.id == class_id), f"Class #{class_id}", for_update)


def page_of_classes(*, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[SchoolClass]:
    """Return one page of classes, by name."""
    key = (SchoolClass.name, SchoolClass.id)
    return page_by_key(db.session(), sa.select(SchoolClass), key, limit=limit, cursor=cursor, descending=False)


def classes_of(school_id: int | None = None) -> Sequence[SchoolClass]:
    """Return all classes of a school by name; of None, those of the current scope."""
    query = sa.select(SchoolClass).order_by(SchoolClass.name, SchoolClass.id)
    return db.session.scalars(query if school_id is None else query.where(SchoolClass.school_id == school_id)).all()


def sizes_of(class_ids: Collection[int], day: date) -> Mapping[int, int]:
    """Return the number of students who are enrolled on a day, by class."""
    query = sa.select(Student.class_id, sa.func.count().label("number")).where(
        Student.class_id.in_(class_ids), enrolled(day)
    )
    return {row.class_id: row.number for row in db.session.execute(query.group_by(Student.class_id))}


def get_student(student_id: int, *, for_update: bool = False) -> Student:
    """Return a student, optionally locked until the commit. Raises NotFoundError."""
    return _get(sa.select(Student).where(Student.id == student_id), f"Student #{student_id}", for_update)


def page_of_students(filters: Filters, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[Student]:
    """Return one page of students with their classes, by name."""
    query = sa.select(Student).where(*_conditions(filters)).options(selectinload(Student.school_class))
    key = (Student.name, Student.id)
    return page_by_key(db.session(), query, key, limit=limit, cursor=cursor, descending=False)


def guardians_of(student: Student) -> Sequence[Guardian]:
    """Return the guardians of a student with their users, in the order in which they were added."""
    query = sa.select(Guardian).where(Guardian.student_id == student.id).order_by(Guardian.id)
    return db.session.scalars(query.options(joinedload(Guardian.user))).all()


def page_of_guardians(student: Student, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[Guardian]:
    """Return one page of the guardians of a student, in the order in which they were added."""
    query = sa.select(Guardian).where(Guardian.student_id == student.id)
    return page_by_key(db.session(), query, (Guardian.id,), limit=limit, cursor=cursor, descending=False)


def get_guardian(student_id: int, guardian_id: int, *, for_update: bool = False) -> Guardian:
    """Return a guardian of a student, optionally locked until the commit. Raises NotFoundError."""
    query = sa.select(Guardian).where(Guardian.id == guardian_id, Guardian.student_id == student_id)
    return _get(query, f"Guardian #{guardian_id} of student #{student_id}", for_update)


def _get(query: sa.Select[Any], name: str, for_update: bool) -> Any:
    if for_update:
        query = query.with_for_update().execution_options(populate_existing=True)
    found = db.session.scalar(query)
    if found is None:
        raise NotFoundError(f"{name} does not exist.")
    return found


def _conditions(filters: Filters) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if filters.class_id is not None:
        conditions.append(Student.class_id == filters.class_id)
    if filters.text:
        columns = (Student.name, Student.number)
        conditions.append(sa.or_(*(column.icontains(filters.text, autoescape=True) for column in columns)))
    if filters.enrolled_on is not None:
        conditions.append(enrolled(filters.enrolled_on))
    if filters.not_enrolled_on is not None:
        conditions.append(~enrolled(filters.not_enrolled_on))
    return conditions
