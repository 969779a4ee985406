"""Records changes as StatusChange rows: those that Python has loaded, and those that SQL selects."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.changes.actor import Subject, current_actor
from flask_belfry.changes.listeners import Change, TrackedModel
from flask_belfry.changes.models import StatusChange
from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.db.columns import database_new_id, new_id
from flask_belfry.db.tenancy import scoped

# Longer values are cut in the records of changes.
VALUE_CHARACTERS = 80


class Difference(NamedTuple):
    """One row's change of a column."""

    id: Any
    old: Any
    new: Any
    school_id: int | None


class ColumnDifferences(NamedTuple):
    """The rows of a model in which a column changed."""

    tracked: TrackedModel
    column: str
    differences: Iterable[Difference]


def _next_number(subject_type: Any, subject_id: Any) -> sa.ColumnElement[int]:
    """Return the number of a subject's next change: unique, because a transaction that changes a row has its lock."""
    earlier = table_of(StatusChange).alias()
    of_subject = sa.and_(earlier.c.subject_type == subject_type, earlier.c.subject_id == subject_id)
    return sa.select(sa.func.coalesce(sa.func.max(earlier.c.number), 0) + 1).where(of_subject).scalar_subquery()


_INSERT = sa.insert(table_of(StatusChange)).values(
    number=_next_number(sa.bindparam("type_of_subject"), sa.bindparam("id_of_subject"))
)


def record(
    session: Session, found: Iterable[ColumnDifferences], batch_id: str | None
) -> list[tuple[TrackedModel, str, list[Change]]]:
    """Record differences of columns with one insert, and return them as changes for the hooks of each column."""
    actor, now = current_actor(), utc_now()
    common = {
        "batch_id": batch_id,
        "request_id": actor.request_id,
        "job_id": actor.job_id,
        "address": actor.ip_address,
    }
    recorded: list[tuple[TrackedModel, str, list[Change]]] = []
    rows: list[dict[str, Any]] = []
    for tracked, column, differences in found:
        if column in tracked.secret:
            differences = [Difference(id, None, None, school_id) for id, _, _, school_id in differences]
        changes = [
            Change(new_id(), Subject(tracked.type, id), as_text(old), as_text(new), now, actor.user_id, school_id)
            for id, old, new, school_id in differences
        ]
        recorded.append((tracked, column, changes))
        rows += [_row(change) | common | {"field": column} for change in changes]
    if rows:
        session.connection().execute(_INSERT, rows)
    return recorded


def record_matching(
    session: Session,
    tracked: TrackedModel,
    column: str,
    matching: sa.Select[*tuple[Any, ...]],
    new: object,
    batch_id: str,
) -> None:
    """Record the change of a column to one value on many rows without fetching them: for changes without a listener.

    Args:
        session: the session whose transaction writes them.
        tracked: the hooks of the model.
        column: the name of the column.
        matching: a query for the ids, the current values (as text, like `as_text` of them) and the schools.
        new: the new value of all rows.
        batch_id: the common id of the changes.
    """
    actor, now = current_actor(), utc_now()
    rows = matching.subquery()
    id, old, school_id = rows.columns
    values: dict[str, Any] = {
        "id": database_new_id(),
        "subject_type": sa.literal(tracked.type),
        "subject_id": sa.cast(id, sa.String),
        "number": _next_number(tracked.type, sa.cast(id, sa.String)),
        "old": old,
        "new": as_text(new),
        "at": now,
        "user_id": actor.user_id,
        "school_id": school_id,
        "address": actor.ip_address,
        "field": column,
        "batch_id": batch_id,
        "request_id": actor.request_id,
        "job_id": actor.job_id,
    }
    table = table_of(StatusChange)
    written = [sa.type_coerce(value, table.c[name].type).label(name) for name, value in values.items()]
    statement = sa.insert(table).from_select(list(values), sa.select(*written).select_from(rows))
    session.connection().execute(scoped(statement))


def stored_as_text(type_: sa.types.TypeEngine[Any]) -> bool:
    """Return whether the database stores values of this type as `as_text` returns them: enums by their values."""
    return (
        isinstance(type_, sa.Enum)
        and type_.enum_class is not None
        and {str(member) for member in type_.enum_class} == set(type_.enums)
    )


def as_text(value: object) -> str | None:
    """Return a value of a tracked column as a change records it."""
    if value is None:
        return None
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…"


def _row(change: Change) -> dict[str, Any]:
    return {
        "id": change.id,
        "subject_type": change.subject.type,
        "subject_id": change.subject.id,
        "type_of_subject": change.subject.type,
        "id_of_subject": change.subject.id,
        "old": change.old,
        "new": change.new,
        "at": change.at,
        "user_id": change.user_id,
        "school_id": change.school_id,
    }
