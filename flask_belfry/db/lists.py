"""Conditions on many ids, and texts by ids: one parameter for all of them, so that the statement stays the same.

SQLAlchemy's `IN` has a parameter for each value, so each number of values is another statement, which it renders, and
the database parses, again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from flask_belfry.db.columns import UuidText, storable


class _Ids(TypeDecorator[Sequence[str]]):
    """UUIDs: an array in PostgreSQL, JSON in SQLite."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(UuidText()) if dialect.name == "postgresql" else sa.Text())

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else _as_sqlite(json.dumps(value))


class _Numbers(TypeDecorator[Sequence[int]]):
    """Numbers: an array in PostgreSQL, JSON in SQLite."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(sa.Integer()) if dialect.name == "postgresql" else sa.Text())

    def process_bind_param(self, value: Sequence[int] | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else json.dumps(value)


class _NumberedIds(TypeDecorator[Sequence[tuple[str, int]]]):
    """UUIDs, each with a number, as JSON."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[tuple[str, int]] | None, dialect: Dialect) -> str:
        text = json.dumps(value)
        return text if dialect.name == "postgresql" else _as_sqlite(text)


class _TextsById(TypeDecorator[Mapping[str, str]]):
    """Texts by UUID, as JSON."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Mapping[str, str] | None, dialect: Dialect) -> str:
        texts = {id: storable(text) for id, text in (value or {}).items()}
        if dialect.name != "postgresql":
            texts = {_as_sqlite(id): text for id, text in texts.items()}
        return json.dumps(texts)


def _as_sqlite(json_text: str) -> str:
    # It keeps the 32 digits of a UUID. Nothing else in this JSON has a hyphen: the numbers are counts.
    return json_text.replace("-", "")


class _Among(FunctionElement[bool]):
    # No type: SQLAlchemy compares a Boolean with 1, and SQLite would use no index.
    inherit_cache = True


class _AmongNumbered(FunctionElement[bool]):
    inherit_cache = True


class _TextById(FunctionElement[str]):
    type = sa.Text()
    inherit_cache = True


def among(id: Any, name: str) -> sa.ColumnElement[bool]:
    """Return the condition that a column of UUIDs or integers has one of the values of a parameter.

    Args:
        id: the column.
        name: of the parameter, whose value is a list of UUIDs as text, or of integers.
    """
    return _Among(id, sa.bindparam(name, type_=_Numbers() if isinstance(id.type, sa.Integer) else _Ids()))


def among_numbered(id: Any, number: Any, name: str) -> sa.ColumnElement[bool]:
    """Return the condition that a UUID and a number are one of the pairs of a parameter.

    Args:
        id: the column of UUIDs.
        number: the column of numbers of 0 and more.
        name: of the parameter, whose value is a list of pairs.
    """
    return _AmongNumbered(id, number, sa.bindparam(name, type_=_NumberedIds()))


def text_by_id(id: sa.ColumnElement[str], name: str) -> sa.ColumnElement[str]:
    """Return the text that a parameter has for a column of UUIDs; NULL without one.

    Args:
        id: the column.
        name: of the parameter, whose value has texts by UUID.
    """
    return _TextById(id, sa.bindparam(name, type_=_TextsById()))


def _parts(element: FunctionElement[Any], compiler: SQLCompiler, options: dict[str, Any]) -> list[str]:
    return [compiler.process(clause, **options) for clause in element.clauses]


@compiles(_Among, "postgresql")
def _among_postgresql(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    id, ids = _parts(element, compiler, options)
    return f"{id} = ANY ({ids})"


@compiles(_Among, "sqlite")
def _among_sqlite(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    id, ids = _parts(element, compiler, options)
    return f"{id} IN (SELECT value FROM json_each({ids}))"  # noqa: S608 - rendered by SQLAlchemy


@compiles(_AmongNumbered, "postgresql")
def _among_numbered_postgresql(element: _AmongNumbered, compiler: SQLCompiler, **options: Any) -> str:
    id, number, pairs = _parts(element, compiler, options)
    columns = "(value ->> 0)::uuid, (value ->> 1)::integer"
    return f"({id}, {number}) IN (SELECT {columns} FROM json_array_elements(({pairs})::json))"  # noqa: S608


@compiles(_AmongNumbered, "sqlite")
def _among_numbered_sqlite(element: _AmongNumbered, compiler: SQLCompiler, **options: Any) -> str:
    id, number, pairs = _parts(element, compiler, options)
    return f"({id}, {number}) IN (SELECT value ->> 0, value ->> 1 FROM json_each({pairs}))"  # noqa: S608


@compiles(_TextById, "postgresql")
def _text_by_id_postgresql(element: _TextById, compiler: SQLCompiler, **options: Any) -> str:
    id, texts = _parts(element, compiler, options)
    return f"(({texts})::json ->> ({id})::text)"


@compiles(_TextById, "sqlite")
def _text_by_id_sqlite(element: _TextById, compiler: SQLCompiler, **options: Any) -> str:
    id, texts = _parts(element, compiler, options)
    # A path, because a label that begins with a digit would be the index of an array.
    return f"""({texts} ->> ('$."' || {id} || '"'))"""
