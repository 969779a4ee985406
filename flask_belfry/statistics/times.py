"""Times in SQL, on both databases: the minute or hour of a time, the seconds between two; and the ids of a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from flask_belfry.db.columns import UtcDateTime

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def minute_of(moment: datetime) -> datetime:
    """Return the beginning of the minute of a time."""
    return moment.replace(second=0, microsecond=0)


def hour_of(moment: datetime) -> datetime:
    """Return the beginning of the hour (UTC) of a time."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


class _MinuteOf(FunctionElement[datetime]):
    type = UtcDateTime()
    inherit_cache = True


class _HourOf(FunctionElement[datetime]):
    type = UtcDateTime()
    inherit_cache = True


class _SecondsBetween(FunctionElement[float]):
    type = sa.Float()
    inherit_cache = True


def minute_in_sql(moment: Any) -> sa.ColumnElement[datetime]:
    """Return the SQL expression for the beginning of the minute of a column."""
    return _MinuteOf(moment)


def hour_in_sql(moment: Any) -> sa.ColumnElement[datetime]:
    """Return the SQL expression for the beginning of the hour (UTC) of a column."""
    return _HourOf(moment)


def seconds_between(start: Any, end: Any) -> sa.ColumnElement[float]:
    """Return the SQL expression for the seconds from one time to another; NULL when either is NULL."""
    return _SecondsBetween(start, end)


@compiles(_MinuteOf, "postgresql")
def _minute_postgresql(element: _MinuteOf, compiler: SQLCompiler, **options: Any) -> str:
    return f"date_trunc('minute', {compiler.process(element.clauses, **options)}, 'UTC')"


@compiles(_HourOf, "postgresql")
def _hour_postgresql(element: _HourOf, compiler: SQLCompiler, **options: Any) -> str:
    return f"date_trunc('hour', {compiler.process(element.clauses, **options)}, 'UTC')"


# UtcDateTime keeps text there: 2026-11-30 15:40:59.123456.
@compiles(_MinuteOf, "sqlite")
def _minute_sqlite(element: _MinuteOf, compiler: SQLCompiler, **options: Any) -> str:
    return f"(substr({compiler.process(element.clauses, **options)}, 1, 17) || '00.000000')"


@compiles(_HourOf, "sqlite")
def _hour_sqlite(element: _HourOf, compiler: SQLCompiler, **options: Any) -> str:
    return f"(substr({compiler.process(element.clauses, **options)}, 1, 14) || '00:00.000000')"


@compiles(_SecondsBetween, "postgresql")
def _seconds_postgresql(element: _SecondsBetween, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(each, **options) for each in element.clauses)
    return f"CAST(EXTRACT(epoch FROM ({end}) - ({start})) AS double precision)"


@compiles(_SecondsBetween, "sqlite")
def _seconds_sqlite(element: _SecondsBetween, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(each, **options) for each in element.clauses)
    return f"((julianday({end}) - julianday({start})) * 86400.0)"
