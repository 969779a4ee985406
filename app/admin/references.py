"""References of rows: labels of the rows they refer to, and the reason why a row cannot be deleted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapper

from flask_belfry.core.presentation import plain
from flask_belfry.db import Base, db

# Columns that refer to a row without a foreign key: ledgers outlive the rows.
BY_NAME = {"user_id": "users", "school_id": "schools", "job_id": "job_records", "change_id": "status_changes"}
# Columns with the label of a row; the first that exists is used.
NAMES = ("name", "title")


@dataclass(frozen=True)
class Reference:
    """The model that a column refers to, with its endpoint in the panel."""

    model: Any
    endpoint: str

    def label(self, id: Any) -> str:
        """Return the label of one row."""
        return self.labels([id]).get(id, f"#{id}")

    def labels(self, ids: Iterable[Any]) -> Mapping[Any, str]:
        """Return the labels of existing rows, by id."""
        mapper: Any = sa.inspect(self.model)
        named = [getattr(self.model, name) for name in NAMES if name in mapper.columns]
        key = mapper.primary_key[0]
        if not named:
            return {id: f"#{plain(id)[:8]}" for id in ids}
        rows = db.session.execute(sa.select(key, named[0]).where(key.in_(list(ids))))
        return {row[0]: row[1] for row in rows}


def references_of(mapper: Mapper[Any], columns: Iterable[str]) -> dict[str, Reference]:
    """Return the references of a model, by column."""
    tables = {str(found.local_table): found.base_mapper.class_ for found in Base.registry.mappers}
    found: dict[str, Reference] = {}
    for name in columns:
        keys = [key.column.table.name for key in mapper.columns[name].foreign_keys]
        table = keys[0] if keys else BY_NAME.get(name)
        if table in tables:
            found[name] = Reference(tables[table], f"admin_{table}.details_view")
    return found


def labels_of(references: Mapping[str, Reference], rows: Sequence[Any]) -> dict[tuple[str, Any], str]:
    """Return the labels of the rows that these rows refer to, by column and id, with one query for each model."""
    ids: dict[Reference, set[Any]] = defaultdict(set)
    for name, reference in references.items():
        ids[reference] |= {getattr(row, name) for row in rows} - {None}
    known = {reference: reference.labels(wanted) for reference, wanted in ids.items() if wanted}
    return {
        (name, id): known[reference].get(id, f"#{id}")
        for name, reference in references.items()
        for id in {getattr(row, name) for row in rows} - {None}
    }


def deletion_problem(mapper: Mapper[Any], row: Any) -> str:
    """Return why a row cannot be deleted: the tables with rows that refer to it."""
    tables = sorted(
        key.parent.table.name.replace("_", " ")
        for key in _keys_to(mapper.local_table)
        if db.session.scalar(
            sa.select(sa.exists().where(key.parent == getattr(row, mapper.get_property_by_column(key.column).key)))
        )
    )
    named = ", ".join(dict.fromkeys(tables)) or "other rows"
    return f"It cannot be deleted: rows of {named} refer to it. Delete or change those first."


def _keys_to(table: Any) -> list[sa.ForeignKey]:
    """Return the foreign keys to a table that are not deleted with its rows."""
    return [
        key
        for other in Base.metadata.tables.values()
        for key in other.foreign_keys
        if key.column.table is table and key.ondelete is None
    ]
