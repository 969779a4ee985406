"""What the form of a notification offers and looks up: classes, students and people of a school, and its time zone.

Each query names the school: admins see the rows of all schools.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import selectinload

from app.accounts import User
from app.directory import SchoolClass, Student
from app.schools import School
from flask_belfry.db import db
from flask_belfry.db.columns import MAX_INTEGER

FOUND_LIMIT = 8
NUMBERS = re.compile(r"([0-9]{1,9})?([^0-9]*)")


@dataclass(frozen=True)
class Choice:
    """A student or a person in the search: `value` identifies it in the field, `note` distinguishes namesakes."""

    value: str
    label: str
    note: str


def schools() -> Mapping[int, str]:
    """Return the names of all schools by id, for admins."""
    query = sa.select(School.id, School.name).where(School.disabled_at.is_(None)).order_by(School.name)
    return {row.id: row.name for row in db.session.execute(query)}


def classes(school_id: int) -> Sequence[SchoolClass]:
    """Return the classes of a school by name, "9a" before "10a"."""
    found = db.session.scalars(sa.select(SchoolClass).where(SchoolClass.school_id == school_id))
    return sorted(found, key=lambda row: _natural(row.name))


def students_by_number(school_id: int, numbers: Iterable[str]) -> Mapping[str, Student]:
    """Return students by their numbers, which may be in any case."""
    wanted = [number.lower() for number in numbers]
    query = _students(school_id).where(sa.func.lower(Student.number).in_(wanted))
    return {student.number.lower(): student for student in db.session.scalars(query)}


def people_by_login(school_id: int, logins: Iterable[str]) -> Mapping[str, User]:
    """Return users by the username or the email address that was typed."""
    wanted = [login.lower() for login in logins]
    query = _people(school_id).where(sa.or_(User.username_key.in_(wanted), User.email.in_(wanted)))
    found: dict[str, User] = {}
    for user in db.session.scalars(query):
        found |= {user.username_key: user, user.email: user}
    return found


def find_students(school_id: int, text: str) -> list[Choice]:
    """Return the first students whose name or number contains the text."""
    matches = sa.or_(Student.name.icontains(text, autoescape=True), Student.number.icontains(text, autoescape=True))
    query = _students(school_id).where(matches).order_by(Student.name, Student.id).limit(FOUND_LIMIT)
    return [student_choice(student) for student in db.session.scalars(query)]


def find_people(school_id: int, text: str) -> list[Choice]:
    """Return the first users whose name, username or email address contains the text."""
    columns = (User.name, User.username_key, User.email)
    matches = sa.or_(*(column.icontains(text, autoescape=True) for column in columns))
    query = _people(school_id).where(matches, User.active).order_by(User.name, User.id).limit(FOUND_LIMIT)
    return [person_choice(user) for user in db.session.scalars(query)]


def students_of(school_id: int, ids: Iterable[int]) -> list[Student]:
    """Return students by their ids, by name."""
    wanted = [id for id in ids if id <= MAX_INTEGER]
    return list(db.session.scalars(_students(school_id).where(Student.id.in_(wanted)).order_by(Student.name)))


def people_of(school_id: int, ids: Iterable[int]) -> list[User]:
    """Return users by their ids, by name."""
    wanted = [id for id in ids if id <= MAX_INTEGER]
    return list(db.session.scalars(_people(school_id).where(User.id.in_(wanted)).order_by(User.name)))


def student_choice(student: Student) -> Choice:
    """Return a student as the search shows it."""
    of_class = f", {student.school_class.name}" if student.school_class else ""
    return Choice(student.number, student.name, f"{student.number}{of_class}")


def person_choice(user: User) -> Choice:
    """Return a user as the search shows it."""
    return Choice(user.username, user.name or user.username, f"{user.username}, {user.role}")


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that orders the numbers within names by their values."""
    return [(int(digits or 0), text.lower()) for digits, text in NUMBERS.findall(name)]


def _students(school_id: int) -> sa.Select[Student]:
    return sa.select(Student).where(Student.school_id == school_id).options(selectinload(Student.school_class))


def _people(school_id: int) -> sa.Select[User]:
    return sa.select(User).where(User.school_id == school_id)
