"""The classes, students and guardians of the demo."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from app.directory import Guardian, SchoolClass, Student
from flask_belfry.db import db, table_of

CLASSES, STUDENTS, GUARDIANS = table_of(SchoolClass), table_of(Student), table_of(Guardian)

CLASS_NAMES = ("5a", "5b", "6a")


class Child(NamedTuple):
    """A student of the demo, with the usernames and relations of the guardians."""

    name: str
    class_name: str | None
    guardians: Mapping[str, str]
    restricted: Mapping[str, str] = {}
    # In days from today.
    enrolled: int = -400
    leaves: int | None = None


CHILDREN = (
    Child("Alma Noether", "5a", {"noether": "mother"}),
    Child("Felix Noether", "6a", {"noether": "mother"}),
    Child("Kamala Ramanujan", "5b", {"ramanujan": "father"}),
    Child("Lionel Hopper", "5a", {"hopper": "mother", "banneker": "father"}),
    Child(
        "Ruth Hopper",
        "6a",
        {"hopper": "mother", "banneker": "father"},
        {"banneker": "Family court order of 12 March: no contact."},
    ),
    Child("Molly Banneker", "5b", {"banneker": "father"}),
    Child("Max Member", "5a", {"member": "mother"}),
    Child("Mara Member", "6a", {"member": "mother"}, enrolled=-800),
    Child("Otto Grossmann", "5b", {}),
    Child("Vera Sato", "5b", {"ramanujan": "uncle"}),
    Child("Yusuf Aydin", None, {"member": "foster mother"}, enrolled=20),
    Child("Zoe Quist", "6a", {"noether": "aunt"}, enrolled=-900, leaves=-30),
)


def load_directory(school_id: int, users: Mapping[str, int], today: date) -> int:
    """Create the classes and students unless there are some of them. The caller commits.

    Returns:
        number of new students.
    """
    if db.session.scalar(sa.select(Student.id).where(_is_of_demo(school_id)).limit(1)):
        return 0
    connection = db.session.connection()
    classes = _load_classes(school_id)
    rows = [_row(number, child, school_id, classes, today) for number, child in enumerate(CHILDREN, 1)]
    statement = sa.insert(STUDENTS).returning(STUDENTS.c.id, sort_by_parameter_order=True)
    ids = connection.execute(statement, rows).scalars().all()
    guardians = [
        {
            "school_id": school_id,
            "student_id": id,
            "user_id": users[username],
            "relation": relation,
            "is_restricted": username in child.restricted,
            "restriction_reason": child.restricted.get(username),
        }
        for id, child in zip(ids, CHILDREN, strict=True)
        for username, relation in child.guardians.items()
    ]
    connection.execute(sa.insert(GUARDIANS), guardians)
    return len(ids)


def wipe_directory(school_id: int, users: sa.Select[Any]) -> None:
    """Delete the students and, if no other student is in them, the classes. The caller commits."""
    connection = db.session.connection()
    connection.execute(sa.delete(GUARDIANS).where(GUARDIANS.c.user_id.in_(users)))
    connection.execute(sa.delete(STUDENTS).where(_is_of_demo(school_id)))
    used = sa.select(STUDENTS.c.class_id).where(STUDENTS.c.class_id.is_not(None))
    of_demo = sa.and_(CLASSES.c.school_id == school_id, CLASSES.c.name.in_(CLASS_NAMES), CLASSES.c.id.not_in(used))
    connection.execute(sa.delete(CLASSES).where(of_demo))


def _is_of_demo(school_id: int) -> sa.ColumnElement[bool]:
    numbers, names = map(_number, range(1, len(CHILDREN) + 1)), [child.name for child in CHILDREN]
    # By both, so that no student of the school's own is taken for one of them.
    columns = STUDENTS.c
    return sa.and_(columns.school_id == school_id, columns.number.in_(list(numbers)), columns.name.in_(names))


def _number(number: int) -> str:
    return f"D-{number:03}"


def _load_classes(school_id: int) -> dict[str, int]:
    query = sa.select(CLASSES.c.name, CLASSES.c.id).where(
        CLASSES.c.school_id == school_id, CLASSES.c.name.in_(CLASS_NAMES)
    )
    present = {row.name for row in db.session.execute(query)}
    missing = [{"school_id": school_id, "name": name} for name in CLASS_NAMES if name not in present]
    if missing:
        db.session.connection().execute(sa.insert(CLASSES), missing)
    return {row.name: row.id for row in db.session.execute(query)}


def _row(number: int, child: Child, school_id: int, classes: Mapping[str, int], today: date) -> dict[str, Any]:
    return {
        "school_id": school_id,
        "number": _number(number),
        "name": child.name,
        "class_id": classes[child.class_name] if child.class_name else None,
        "enrolled_on": today + timedelta(days=child.enrolled),
        "left_on": None if child.leaves is None else today + timedelta(days=child.leaves),
    }
