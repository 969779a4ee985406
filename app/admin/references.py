"""What rows refer to: their names on pages, one query for each table, and why a row cannot be deleted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapper

from flask_belfry.core.presentation import plain
from flask_belfry.db import Base, db

# Columns that name a row without a foreign key: ledgers outlive what they tell of.
BY_NAME = {"user_id": "users", "school_id": "schools", "job_id": "job_records", "change_id": "status_changes"}
# What rows are called by, first found.
NAMES = ("name", "title")


@dataclass(frozen=True)
class Reference:
    """Where a column leads: to the rows of a model in the panel."""

    model: Any
    endpoint: str

    def label(self, id: Any) -> str:
        """What one row is called."""
        return self.labels([id]).get(id, f"#{id}")

    def labels(self, ids: Iterable[Any]) -> Mapping[Any, str]:
        """What these rows are called, by id, as far as they are there."""
        mapper: Any = sa.inspect(self.model)
        named = [getattr(self.model, name) for name in NAMES if name in mapper.columns]
        key = mapper.primary_key[0]
        if not named:
            return {id: f"#{plain(id)[:8]}" for id in ids}
        rows = db.session.execute(sa.select(key, named[0]).where(key.in_(list(ids))))
        return {row[0]: row[1] for row in rows}


def references_of(mapper: Mapper[Any], columns: Iterable[str]) -> dict[str, Reference]:
    """The columns of a model that name rows of others, with where they lead."""
    tables = {str(found.local_table): found.base_mapper.class_ for found in Base.registry.mappers}
    found: dict[str, Reference] = {}
    for name in columns:
        keys = [key.column.table.name for key in mapper.columns[name].foreign_keys]
        table = keys[0] if keys else BY_NAME.get(name)
        if table in tables:
            found[name] = Reference(tables[table], f"admin_{table}.details_view")
    return found


def labels_of(references: Mapping[str, Reference], rows: Sequence[Any]) -> dict[tuple[str, Any], str]:
    """What the rows that these refer to are called, by column and id: one query for each model."""
    ids: dict[Reference, set[Any]] = defaultdict(set)
    for name, reference in references.items():
        ids[reference] |= {getattr(row, name) for row in rows} - {None}
    known = {reference: reference.labels(wanted) for reference, wanted in ids.items() if wanted}
    return {
        (name, id): known[reference].get(id, f"#{id}")
        for name, reference in references.items()
        for id in {getattr(row, name) for row in rows} - {None}
    }


def refuse_reason(mapper: Mapper[Any], row: Any) -> str:
    """Why the database does not let a row go: which tables have rows that refer to it."""
    tables = sorted(
        key.parent.table.name.replace("_", " ")
        for key in _keys_to(mapper.local_table)
        if db.session.scalar(
            sa.select(sa.exists().where(key.parent == getattr(row, mapper.get_property_by_column(key.column).key)))
        )
    )
    named = ", ".join(dict.fromkeys(tables)) or "other rows"
    return f"It cannot be deleted: it is named by {named}. Delete or change those first."


def _keys_to(table: Any) -> list[sa.ForeignKey]:
    """The foreign keys that refer to a table, and do not go with its rows."""
    return [
        key
        for other in Base.metadata.tables.values()
        for key in other.foreign_keys
        if key.column.table is table and key.ondelete is None
    ]
