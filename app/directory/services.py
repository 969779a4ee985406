"""Changes to classes, students and guardians. Each function checks the permissions of the acting user; the caller
commits.

A row that is changed is loaded once, by the caller, with its lock: `queries.get_student(id, for_update=True)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from app import audit
from app.accounts import User, require
from app.directory.models import (
    MAX_CLASS_NAME_CHARACTERS,
    MAX_NUMBER_CHARACTERS,
    MAX_REASON_CHARACTERS,
    MAX_RELATION_CHARACTERS,
    MAX_STUDENT_NAME_CHARACTERS,
    Guardian,
    SchoolClass,
    Student,
)
from app.directory.rules import CHANGE, STAFF_ONLY
from flask_belfry.changes import subject_of
from flask_belfry.core.errors import ConflictError, InvalidInputError
from flask_belfry.db import db

# Catches a mistyped year.
EARLIEST, LATEST = date(1950, 1, 1), date(2100, 1, 1)
STUDENT_FIELDS = frozenset({"number", "name", "class_id", "enrolled_on", "left_on"})
GUARDIAN_FIELDS = frozenset({"relation", "is_restricted", "restriction_reason"})

GUARDIAN_ADDED, GUARDIAN_REMOVED = "student.guardian_added", "student.guardian_removed"


def create_class(user: User, *, name: str, school_id: int | None = None) -> SchoolClass:
    """Create a class, flushed.

    Args:
        user: the acting user.
        name: 1 to 80 characters, unique in the school.
        school_id: its school; None is that of the user.

    Raises:
        InvalidInputError: the name is invalid or taken.
    """
    require(user, CHANGE, message=STAFF_ONLY)
    school_class = SchoolClass(school_id=school_id or user.school_id)
    _write_class(school_class, name)
    return school_class


def change_class(user: User, school_class: SchoolClass, changes: Mapping[str, Any]) -> None:
    """Change the `name` of a class, flushed. Raises InvalidInputError."""
    require(user, CHANGE, school_class, message=STAFF_ONLY)
    if "name" in changes:
        _write_class(school_class, changes["name"])


def delete_class(user: User, school_class: SchoolClass, *, today: date) -> None:
    """Delete a class; students who have left it are kept without a class. Flushed.

    Raises:
        ConflictError: students of the class are enrolled, or will be.
    """
    require(user, CHANGE, school_class, message=STAFF_ONLY)
    of_class = Student.class_id == school_class.id
    has_left = sa.and_(Student.left_on.is_not(None), Student.left_on <= today)
    number = db.session.scalar(sa.select(sa.func.count()).select_from(Student).where(of_class, ~has_left)) or 0
    if number:
        students = "1 student" if number == 1 else f"{number} students"
        raise ConflictError(f"{school_class.name} has {students}: move them to another class first.")
    db.session.execute(sa.update(Student).where(of_class).values(class_id=None))
    db.session.delete(school_class)
    db.session.flush()


def create_student(
    user: User,
    *,
    number: str,
    name: str,
    enrolled_on: date,
    left_on: date | None = None,
    class_id: int | None = None,
    school_id: int | None = None,
) -> Student:
    """Create a student without guardians, flushed.

    Args:
        user: the acting user.
        number: 1 to 40 characters, unique in the school.
        name: 1 to 120 characters.
        enrolled_on: the first day.
        left_on: the first day after the last one; None while it is not known.
        class_id: a class of the school.
        school_id: the school; None is that of the user.

    Raises:
        InvalidInputError: names every invalid field.
    """
    require(user, CHANGE, message=STAFF_ONLY)
    student = Student(school_id=school_id or user.school_id)
    values = {"number": number, "name": name, "enrolled_on": enrolled_on, "left_on": left_on, "class_id": class_id}
    _write_student(student, values)
    return student


def change_student(user: User, student: Student, changes: Mapping[str, Any]) -> None:
    """Change some of `STUDENT_FIELDS`, all or nothing, flushed. Raises InvalidInputError."""
    require(user, CHANGE, student, message=STAFF_ONLY)
    _write_student(student, {name: changes.get(name, getattr(student, name)) for name in STUDENT_FIELDS})


def delete_student(user: User, student: Student) -> None:
    """Delete a student with the guardians' rows, flushed: for those entered by mistake; others leave."""
    require(user, CHANGE, student, message=STAFF_ONLY)
    db.session.delete(student)
    db.session.flush()


def add_guardian(
    user: User,
    student: Student,
    *,
    user_id: int,
    relation: str = "",
    is_restricted: bool = False,
    restriction_reason: str | None = None,
) -> Guardian:
    """Make a user a guardian of a student, flushed.

    Args:
        user: the acting user.
        student: the student, locked.
        user_id: an active user of the same school with a confirmed email address.
        relation: at most 40 characters, such as "mother".
        is_restricted: whether the guardian may not be contacted about the student.
        restriction_reason: 1 to 200 characters, required with a restriction and impossible without one.

    Raises:
        InvalidInputError: names every invalid field.
    """
    require(user, CHANGE, student, message=STAFF_ONLY)
    guardian = Guardian(school_id=student.school_id, student_id=student.id, user_id=user_id)
    problems = {"user_id": _guardian_problem(student, user_id)}
    values = {"relation": relation, "is_restricted": is_restricted, "restriction_reason": restriction_reason}
    _set_guardian(guardian, values, problems)
    db.session.add(guardian)
    db.session.flush()
    _record(GUARDIAN_ADDED, student, guardian)
    return guardian


def change_guardian(user: User, guardian: Guardian, changes: Mapping[str, Any]) -> None:
    """Change some of `GUARDIAN_FIELDS`, flushed; without a restriction there is no reason. Raises InvalidInputError."""
    require(user, CHANGE, guardian, message=STAFF_ONLY)
    values = {name: changes.get(name, getattr(guardian, name)) for name in GUARDIAN_FIELDS}
    if not values["is_restricted"] and "restriction_reason" not in changes:
        values["restriction_reason"] = None
    _set_guardian(guardian, values, {})
    db.session.flush()


def remove_guardian(user: User, guardian: Guardian) -> None:
    """Remove a guardian from the student, flushed."""
    require(user, CHANGE, guardian, message=STAFF_ONLY)
    _record(GUARDIAN_REMOVED, guardian.student, guardian)
    db.session.delete(guardian)
    db.session.flush()


def _record(action: str, student: Student, guardian: Guardian) -> None:
    # About the student, in whose history it is: the row of a removed guardian no longer exists.
    details = {"guardian_id": guardian.id, "user_id": guardian.user_id}
    audit.record_many(action, {subject_of(student): student.school_id}, details)


def _write_class(school_class: SchoolClass, name: str) -> None:
    cleaned, problem = _text(name, MAX_CLASS_NAME_CHARACTERS)

    def taken() -> dict[str, str | None]:
        others = _others(SchoolClass, school_class, SchoolClass.name == cleaned)
        return {"name": "Another class of the school has this name." if others else None}

    _raise_for({"name": problem})
    _raise_for(taken())
    _write(school_class, {"name": cleaned}, taken)


def _write_student(student: Student, values: dict[str, Any]) -> None:
    values["number"], number_problem = _text(values["number"], MAX_NUMBER_CHARACTERS)
    values["name"], name_problem = _text(values["name"], MAX_STUDENT_NAME_CHARACTERS)

    def taken() -> dict[str, str | None]:
        others = _others(Student, student, Student.number == values["number"])
        return {
            "number": "Another student of the school has this number." if others else None,
            "class_id": _class_problem(student.school_id, values["class_id"]),
        }

    _raise_for(
        taken()
        | {name: problem for name, problem in (("number", number_problem), ("name", name_problem)) if problem}
        | {
            "enrolled_on": _date_problem(values["enrolled_on"]),
            "left_on": _leaving_problem(values["enrolled_on"], values["left_on"]),
        }
    )
    _write(student, values, taken)


def _set_guardian(guardian: Guardian, values: dict[str, Any], problems: dict[str, str | None]) -> None:
    values["relation"], problems["relation"] = _text(values["relation"], MAX_RELATION_CHARACTERS, is_required=False)
    reason, problem = _text(values["restriction_reason"] or "", MAX_REASON_CHARACTERS, is_required=False)
    if values["is_restricted"] and not reason:
        problem = "Enter the reason of the restriction."
    if not values["is_restricted"] and reason:
        problem = "There is no restriction: leave the reason empty."
    values["restriction_reason"] = reason or None
    _raise_for(problems | {"restriction_reason": problem})
    for name, value in values.items():
        setattr(guardian, name, value)


def _guardian_problem(student: Student, user_id: int) -> str | None:
    person = db.session.get(User, user_id)
    is_known = person is not None and person.school_id == student.school_id
    if person is None or not is_known or not person.active or not person.is_confirmed:
        return "Select an active user of the school with a confirmed email address."
    query = sa.select(Guardian.id).where(Guardian.student_id == student.id, Guardian.user_id == user_id)
    return "Already a guardian of this student." if db.session.scalar(query) is not None else None


def _class_problem(school_id: int, class_id: int | None) -> str | None:
    # Of the student's school: an admin sees those of others too. Locked, so that a deletion waits.
    query = sa.select(SchoolClass.id).where(SchoolClass.id == class_id, SchoolClass.school_id == school_id)
    if class_id is None or db.session.scalar(query.with_for_update(read=True, key_share=True)) is not None:
        return None
    return "Select a class of the school."


def _date_problem(day: date) -> str | None:
    return None if EARLIEST <= day < LATEST else f"Choose a date from {EARLIEST:%Y} to {LATEST:%Y}."


def _leaving_problem(enrolled_on: date, left_on: date | None) -> str | None:
    if left_on is None:
        return None
    if left_on <= enrolled_on:
        return "Choose a date after the enrolment."
    return _date_problem(left_on)


def _text(text: str, characters: int, *, is_required: bool = True) -> tuple[str, str | None]:
    """Return a text with single spaces, and what is wrong with it."""
    cleaned = " ".join(text.split())
    if not cleaned and is_required:
        return cleaned, "This field is required."
    if len(cleaned) > characters or not cleaned.isprintable():
        return cleaned, f"Enter at most {characters} printable characters."
    return cleaned, None


def _others(model: Any, row: Any, condition: sa.ColumnElement[bool]) -> bool:
    """Return whether another row of the school meets the condition."""
    query = sa.select(model.id).where(model.school_id == row.school_id, condition, model.id != (row.id or 0))
    with db.session.no_autoflush:
        return db.session.scalar(query) is not None


def _write(row: Any, values: Mapping[str, Any], taken: Callable[[], Mapping[str, str | None]]) -> None:
    """Set `values` and flush; if another transaction has taken a value since the check, name its field."""
    try:
        # Within the block: what is set before it is flushed before the savepoint.
        with db.session.begin_nested():
            for name, value in values.items():
                setattr(row, name, value)
            db.session.add(row)
    except IntegrityError:
        _raise_for(taken())
        raise


def _raise_for(problems: Mapping[str, str | None]) -> None:
    wrong = {field: [problem] for field, problem in problems.items() if problem}
    if wrong:
        raise InvalidInputError("Some fields are invalid.", wrong)
