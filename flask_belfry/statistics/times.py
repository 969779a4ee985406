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


class minute_in_sql(FunctionElement[datetime]):  # noqa: N801 - used as a function
    """The beginning of the minute of a column."""

    type = UtcDateTime()
    inherit_cache = True


class hour_in_sql(FunctionElement[datetime]):  # noqa: N801
    """The beginning of the hour (UTC) of a column."""

    type = UtcDateTime()
    inherit_cache = True


class seconds_between(FunctionElement[float]):  # noqa: N801
    """The seconds from one time to another; NULL when either is NULL."""

    type = sa.Float()
    inherit_cache = True


@compiles(minute_in_sql, "postgresql")
def _minute_postgresql(element: minute_in_sql, compiler: SQLCompiler, **options: Any) -> str:
    return f"date_trunc('minute', {compiler.process(element.clauses, **options)}, 'UTC')"


@compiles(hour_in_sql, "postgresql")
def _hour_postgresql(element: hour_in_sql, compiler: SQLCompiler, **options: Any) -> str:
    return f"date_trunc('hour', {compiler.process(element.clauses, **options)}, 'UTC')"


# UtcDateTime keeps text there: 2026-11-30 15:40:59.123456.
@compiles(minute_in_sql, "sqlite")
def _minute_sqlite(element: minute_in_sql, compiler: SQLCompiler, **options: Any) -> str:
    return f"(substr({compiler.process(element.clauses, **options)}, 1, 17) || '00.000000')"


@compiles(hour_in_sql, "sqlite")
def _hour_sqlite(element: hour_in_sql, compiler: SQLCompiler, **options: Any) -> str:
    return f"(substr({compiler.process(element.clauses, **options)}, 1, 14) || '00:00.000000')"


@compiles(seconds_between, "postgresql")
def _seconds_postgresql(element: seconds_between, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(each, **options) for each in element.clauses)
    return f"CAST(EXTRACT(epoch FROM ({end}) - ({start})) AS double precision)"


@compiles(seconds_between, "sqlite")
def _seconds_sqlite(element: seconds_between, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(each, **options) for each in element.clauses)
    return f"((julianday({end}) - julianday({start})) * 86400.0)"
