"""Inserts that decide what happens to rows which break a unique constraint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from flask_belfry.db import Base, table_of


def insert_into(table: sa.Table, dialect_name: str) -> postgresql.Insert | sqlite.Insert:
    """Return an insert that can handle conflicts, for the dialect `postgresql` or `sqlite`."""
    return (postgresql if dialect_name == "postgresql" else sqlite).insert(table)


def insert_ignoring_conflicts(
    session: Session, model: type[Base], rows: Sequence[Mapping[str, Any]], key: str = "id"
) -> set[Any]:
    """Insert `rows` on the session's connection, and skip those that break a unique constraint.

    Args:
        session: the session whose transaction writes them.
        model: the model of the table.
        rows: the columns of each row.
        key: the column that identifies the inserted rows.

    Returns:
        the keys of the inserted rows.
    """
    statement = _ignoring_conflicts(session.get_bind().dialect.name, model, key)
    # Sorted, so that two transactions that insert the same keys wait for each other and do not deadlock.
    ordered = sorted(rows, key=lambda row: str(row.get("unique_key") or row[key]))
    return set(session.connection().execute(statement, ordered).scalars())


@cache
def _ignoring_conflicts(dialect_name: str, model: type[Base], key: str) -> Any:
    """Return the insert. Building it again takes as long as writing a row."""
    table = table_of(model)
    return insert_into(table, dialect_name).on_conflict_do_nothing().returning(table.c[key])
