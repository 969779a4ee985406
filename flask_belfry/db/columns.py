"""Column types of all models, and the clock of the database. It defines no model."""

from __future__ import annotations

import os
import re
import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from flask_belfry.core.clock import utc_now

# The largest number that an INTEGER column of PostgreSQL holds.
MAX_INTEGER = 2**31 - 1
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored in UTC; a naive one is refused before it reaches the database."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        value = in_utc(value)
        # SQLite keeps text without an offset; one form for all rows keeps comparisons true.
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | str | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if isinstance(value, str):  # a driver that leaves SQLite's text, or a server's, as it is
            value = datetime.fromisoformat(value)
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class StorableText(TypeDecorator[str]):
    """Text of any origin, such as an error message. Characters that a database cannot store are replaced."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


class RowIdText(TypeDecorator[Any]):
    """The id of a row of any table, as text: Python may bind it with the type of its own table, such as an int."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: object, dialect: Dialect) -> str | None:
        return None if value is None else str(value)


class UuidText(sa.Uuid[str]):
    """A UUID as its canonical text in Python. SQLite keeps its 32 hexadecimal digits.

    SQLAlchemy's own type parses each value that SQLite returns: a tenth of the time that a worker needs for a job.
    """

    cache_ok = True

    def __init__(self) -> None:
        super().__init__(as_uuid=False)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        return super().result_processor(dialect, coltype) if dialect.supports_native_uuid else _with_hyphens


class JsonText(TypeDecorator[Any]):
    """Text that is JSON already, for a JSON column: it is written unchanged. None is NULL."""

    impl = sa.JSON
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> None:
        return None


def _with_hyphens(value: str | None) -> str | None:
    if value is None:
        return None
    return f"{value[:8]}-{value[8:12]}-{value[12:16]}-{value[16:20]}-{value[20:]}"


def storable(text: str) -> str:
    """Return `text` with replacements for NUL, which PostgreSQL refuses, and lone surrogates."""
    # The method of `str`: a subclass may override it.
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", str.__str__(text))


def error_text(error: BaseException) -> str:
    """Return the message of `error`, also when its `str()` raises: it is recorded with the job."""
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - an error of a job may raise anything here
        return f"<{type(error).__name__} cannot be shown>"


def text_enum(enum: type[StrEnum], length: int = 20) -> sa.Enum:
    """Return a column type for an enum's values (not names) as text, with a CHECK on both databases."""
    return sa.Enum(
        enum,
        native_enum=False,
        create_constraint=True,
        validate_strings=True,
        length=length,
        name=f"{enum.__name__.lower()}",
        values_callable=lambda members: [member.value for member in members],
    )


def in_utc(value: datetime) -> datetime:
    """Return the time in UTC, as the database returns it. Raises ValueError for a naive one."""
    if value.tzinfo is None:
        raise ValueError(f"naive datetime {value!r}: times are aware (UTC) datetimes")
    return value.astimezone(UTC)


class _DatabaseNow(FunctionElement[datetime]):
    type = UtcDateTime()
    inherit_cache = True


def database_now(offset_seconds: float = 0.0) -> sa.ColumnElement[datetime]:
    """Return the time of the statement by the database's clock, in SQL: the one clock that all hosts share.

    Args:
        offset_seconds: added to it; negative for a time in the past.
    """
    return _DatabaseNow(sa.literal(float(offset_seconds)))


@compiles(_DatabaseNow, "postgresql")
def _compile_postgresql(element: _DatabaseNow, compiler: SQLCompiler, **options: Any) -> str:
    # Not now(): that is when the transaction began.
    return f"(statement_timestamp() + {compiler.process(element.clauses, **options)} * interval '1 second')"


@compiles(_DatabaseNow, "sqlite")
def _compile_sqlite(element: _DatabaseNow, compiler: SQLCompiler, **options: Any) -> str:
    # In the form in which UtcDateTime keeps its values there; SQLite counts milliseconds.
    offset = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {offset} || ' seconds')"


class _DatabaseId(FunctionElement[str]):
    type = UuidText()
    inherit_cache = True


def database_new_id() -> sa.ColumnElement[str]:
    """Return `new_id` in SQL: a different id for each row of a statement, all with the current time."""
    return _DatabaseId(sa.literal(new_id(), UuidText()))


@compiles(_DatabaseId, "postgresql")
def _compile_id_postgresql(element: _DatabaseId, compiler: SQLCompiler, **options: Any) -> str:
    moment = compiler.process(element.clauses, **options)
    return f"overlay(gen_random_uuid()::text placing left(({moment})::text, 15) from 1 for 15)::uuid"


@compiles(_DatabaseId, "sqlite")
def _compile_id_sqlite(element: _DatabaseId, compiler: SQLCompiler, **options: Any) -> str:
    # In the form in which Uuid keeps its values there: 32 hexadecimal digits. The variant's is one of 8, 9, a and b.
    moment = compiler.process(element.clauses, **options)
    variant = "substr('89ab', 1 + (random() & 3), 1)"
    random = f"substr(hex(randomblob(2)), 1, 3) || {variant} || substr(hex(randomblob(8)), 1, 15)"
    return f"(substr({moment}, 1, 13) || lower({random}))"


def new_id(moment: datetime | None = None) -> str:
    """Return a UUID of version 7 (RFC 9562, section 5.7): ids sort by the millisecond of their creation.

    Args:
        moment: the time by which it sorts, instead of now.
    """
    millis = int((moment or utc_now()).timestamp() * 1_000)
    value = (millis & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def lowest_id(moment: datetime) -> str:
    """Return the lowest id that `new_id` can have made at a time: those made later are higher."""
    return str(uuid.UUID(int=max(0, int(moment.timestamp() * 1_000)) << 80))


def time_of_id(id: str) -> datetime:
    """Return when `new_id` made an id."""
    return datetime.fromtimestamp((uuid.UUID(id).int >> 80) / 1_000, UTC)


def as_uuid_text(value: Any) -> str | None:
    """Return the canonical text of a UUID, or None when `value` is invalid: for ids that come from outside."""
    try:
        return str(uuid.UUID(str(value)))
    except ValueError:
        return None


def is_storable(text: str) -> bool:
    """Return whether every database can store this text: PostgreSQL refuses NUL and lone surrogates."""
    return _UNSTORABLE.search(text) is None


def text_problem(text: object, characters: int) -> str | None:
    """Return why a text does not fit a column of so many characters; None when it does."""
    if isinstance(text, str) and 0 < len(text) <= characters and is_storable(text):
        return None
    return f"must be text of 1 to {characters} characters without NUL and lone surrogates"
