"""What is kept about a person: every slice says what it keeps, how the person gets it, and how it is erased.

A slice registers its part when it is imported, in its `personal.py`. A test walks all columns that name a user and
fails when one is in no part and not exempt: nothing that is kept of people is forgotten silently.
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
    """A user, or who was one until a moment ago: when a part is erased, the user's row has lost its address.

    Args:
        id: the user's, which stays.
        email: the address, confirmed, so that it is nobody else's.
    """

    id: int
    email: str


@dataclass(frozen=True)
class Part:
    """What one slice keeps of people. Its functions run in a scope that sees all schools.

    Args:
        name: its place in what a person gets.
        columns: the columns that say whose a row is.
        export: gives all of it as JSON takes it; without secrets, and nothing of others.
        erase: takes out of it what tells who the person was. It only flushes.
        outcome: what becomes of it, as a person who is about to delete the account reads it.
    """

    name: str
    columns: tuple[InstrumentedAttribute[Any], ...]
    export: Callable[[Person], Any]
    erase: Callable[[Person], None]
    outcome: str


_parts: dict[str, Part] = {}
_exempt: dict[str, str] = {}


def register(part: Part) -> None:
    """Adds a slice's part, or puts it in the place of one with the same name."""
    _parts[part.name] = part


def exempt(reason: str, *columns: InstrumentedAttribute[Any]) -> None:
    """Says why columns that name a user are in no part."""
    for column in columns:
        _exempt[_name(column)] = reason


def parts() -> Iterable[Part]:
    """All parts, in the order of their names."""
    return [_parts[name] for name in sorted(_parts)]


def accounted_for() -> set[str]:
    """The columns that parts have or that are exempt, each as `table.column`."""
    return {_name(column) for part in _parts.values() for column in part.columns} | _exempt.keys()


def rows_of(query: sa.Select[*tuple[Any, ...]]) -> list[dict[str, Any]]:
    """What a query of columns finds, as JSON takes it: times in ISO 8601, enums by their values."""
    found = db.session.execute(query).mappings()
    return [{name: _plain(value) for name, value in row.items()} for row in found]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.value if isinstance(value, Enum) else value


def _name(column: InstrumentedAttribute[Any]) -> str:
    (found,) = column.property.columns
    return f"{found.table.name}.{found.name}"
