"""Personal data in the directory: of which students a user is a guardian."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.directory.models import Guardian, Student
from app.personal_data import Part, Person, register, rows_of
from flask_belfry.db import db

# Without the reason of a restriction, which may be about others.
COLUMNS = (Student.number, Student.name, Guardian.relation, Guardian.is_restricted)


def export(person: Person) -> list[dict[str, Any]]:
    """Return the students of a person."""
    query = sa.select(*COLUMNS).join(Guardian.student).where(Guardian.user_id == person.id)
    return rows_of(query.order_by(Guardian.id))


def erase(person: Person) -> None:
    """Remove the person from the students."""
    db.session.execute(sa.delete(Guardian).where(Guardian.user_id == person.id))


register(
    Part(
        "students",
        (Guardian.user_id,),
        export,
        erase,
        "You are no longer a guardian of any student: the school cannot reach you about them.",
    )
)
