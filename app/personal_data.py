"""Personal data: each slice declares what it stores about people, how it is exported and how it is erased.

A slice registers its part at import, in its `personal.py`. A test checks that every column that refers to a user is in
a part or exempt, so that no personal data is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute

from flask_belfry.db import db


@dataclass(frozen=True)
class Person:
    """A user whose data is exported or erased. During the erasure, the user's row no longer has the email address.

    Args:
        id: the id of the user, which remains.
        email: the confirmed email address, which no other user has.
    """

    id: int
    email: str


@dataclass(frozen=True)
class Part:
    """The personal data of one slice. Its functions run in a scope that sees all schools.

    Args:
        name: the key in the export.
        columns: the columns that refer to a user.
        export: returns the data as JSON values, without secrets and without data of others.
        erase: removes what identifies the person; flushes, but does not commit.
        outcome: the consequence of a deletion, as shown on the page before it.
    """

    name: str
    columns: tuple[InstrumentedAttribute[Any], ...]
    export: Callable[[Person], Any]
    erase: Callable[[Person], None]
    outcome: str


_parts: dict[str, Part] = {}
_exempt: dict[str, str] = {}


def register(part: Part) -> None:
    """Register a part, or replace the one of the same name."""
    _parts[part.name] = part


def exempt(reason: str, *columns: InstrumentedAttribute[Any]) -> None:
    """Declare why columns that refer to a user are in no part."""
    for column in columns:
        _exempt[_name(column)] = reason


def parts() -> Iterable[Part]:
    """Return all parts by name."""
    return [_parts[name] for name in sorted(_parts)]


def accounted_for() -> set[str]:
    """Return the columns in parts and exemptions, as `table.column`."""
    return {_name(column) for part in _parts.values() for column in part.columns} | _exempt.keys()


def rows_of(query: sa.Select[*tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Return the rows of a query of columns as JSON values: times in ISO 8601, enums by value."""
    found = db.session.execute(query).mappings()
    return [{name: _json_value(value) for name, value in row.items()} for row in found]


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.value if isinstance(value, Enum) else value


def _name(column: InstrumentedAttribute[Any]) -> str:
    (found,) = column.property.columns
    return f"{found.table.name}.{found.name}"
