"""Classes, students and guardians for tests. Each function writes and commits; names count up."""

from __future__ import annotations

from datetime import date
from itertools import count
from typing import Any

from app.accounts import User
from app.directory import Guardian, SchoolClass, Student
from app.schools import default_school
from flask_belfry.db import db
from tests.reservation_factories import make_school, make_user

__all__ = ["guardian", "school_class", "second_school", "student"]

ENROLLED_ON = date(2025, 8, 1)
_numbers = count(1)

# Another school than that of the installation, with no users.
second_school = make_school


def school_class(**values: Any) -> SchoolClass:
    """A class, of the school of the installation unless `school_id` is given."""
    row = SchoolClass(**{"school_id": _school_id(values), "name": f"Class {next(_numbers)}"} | values)
    db.session.add(row)
    db.session.commit()
    return row


def student(in_class: SchoolClass | None = None, **values: Any) -> Student:
    """An enrolled student of the class' school, without guardians; `in_class=None` is one without a class."""
    number = next(_numbers)
    defaults = {
        "school_id": in_class.school_id if in_class else _school_id(values),
        "number": f"S{number:05}",
        "name": f"Student {number}",
        "class_id": in_class.id if in_class else None,
        "enrolled_on": ENROLLED_ON,
    }
    row = Student(**defaults | values)
    db.session.add(row)
    db.session.commit()
    return row


def guardian(of: Student, user: User | None = None, *, restricted: str | None = None, **values: Any) -> Guardian:
    """A guardian of a student: `user`, or a new member of the same school. `restricted` is the reason of a contact
    restriction, e.g. "Custody order"."""
    user = user or make_user(school_id=of.school_id)
    restriction = {"is_restricted": restricted is not None, "restriction_reason": restricted}
    row = Guardian(**{"school_id": of.school_id, "student_id": of.id, "user_id": user.id} | restriction | values)
    db.session.add(row)
    db.session.commit()
    return row


def _school_id(values: dict[str, Any]) -> int:
    return values.get("school_id") or default_school().id
