"""The roll-up: the scheduler counts what ended in the last minutes, and adds up each hour that is complete.

A recount of a minute never lowers a count, so that it may be repeated, by several schedulers too, and so that retrying
or deleting a job does not change what happened. A minute is final LATE after its end: until then a transaction may
commit what ended in it. After a downtime the minutes since then are counted page by page.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base, table_of
from flask_belfry.db.inserts import insert_ignoring_conflicts, insert_into
from flask_belfry.statistics.models import ALL_ID, Resolution, RollUp
from flask_belfry.statistics.times import MINUTE, hour_in_sql, hour_of, minute_of
from flask_belfry.statistics.totals import add_to_totals

LATE = timedelta(minutes=2)
# With more than BUSY_EVENTS, minutes that are not final yet are only counted as long as this after their end.
RECENT = timedelta(seconds=20)
# How far back the first pass counts.
BACKFILL = timedelta(days=8)
# About how many events one page counts, so that its transaction is short.
PAGE_EVENTS = 2_000
BUSY_EVENTS = 20_000


class Source(ABC):
    """What is counted into the table of `model`, by minutes and hours.

    `model` has the columns `resolution` and `at` in its key, and its other columns are counts. `totals` has their sums
    over all time.
    """

    name: ClassVar[str]
    model: ClassVar[type[Base]]
    totals: ClassVar[type[Base] | None] = None

    @abstractmethod
    def event_at(self, session: Session, since: datetime, until: datetime, offset: int) -> datetime | None:
        """Return the time of the event after `offset` others of this time; None when there are fewer."""

    @abstractmethod
    def count(self, session: Session, since: datetime, until: datetime) -> Any:
        """Return the counts of whole minutes, as `write` accepts them. It only reads."""

    def write(self, session: Session, counted: Any) -> None:
        """Write the counts, while this source's row of `roll_ups` is locked."""
        write_counts(session, self.model, counted)


_sources: list[Source] = []


def add_source(source: Source) -> Source:
    """Register a source: each package registers those of its own tables."""
    _sources.append(source)
    return source


def sources() -> Sequence[Source]:
    """Return the registered sources."""
    return tuple(_sources)


def roll_up_pages(session: Session) -> Iterator[None]:
    """Count what ended since the last call, of all sources one after the other, and commit page by page."""
    for source in _sources:
        yield from roll_up_source(session, source)


def complete_until(session: Session, *names: str) -> datetime | None:
    """Return until when all of these sources have only final minutes, and whole hours before; None at the beginning."""
    found = session.execute(sa.select(RollUp.complete_until).where(RollUp.name.in_(names))).scalars().all()
    return min(found) if len(found) == len(names) else None


def roll_up_source(session: Session, source: Source) -> Iterator[None]:
    """Count what ended since the last call, of one source, and commit page by page."""
    now = utc_now()
    final = minute_of(now - LATE)
    reached = complete_until(session, source.name)
    if reached is None:
        reached = minute_of(now - BACKFILL)
        insert_ignoring_conflicts(session, RollUp, [{"name": source.name, "complete_until": reached}], "name")
        session.commit()
    while reached < final:
        at = source.event_at(session, reached, final, PAGE_EVENTS)
        end = final if at is None else max(minute_of(at), reached + MINUTE)
        _count(session, source, reached, end)
        _complete(session, source, reached, end)
        session.commit()
        reached = end
        yield
    until = minute_of(now) + MINUTE
    is_busy = source.event_at(session, reached, until, BUSY_EVENTS) is not None
    _count(session, source, max(reached, minute_of(now - RECENT)) if is_busy else reached, until)
    session.commit()
    yield


def _count(session: Session, source: Source, since: datetime, until: datetime) -> None:
    counted = source.count(session, since, until)
    # Locked for the write only: on SQLite the lock is that of the whole database.
    session.execute(sa.select(RollUp.name).where(RollUp.name == source.name).with_for_update())
    source.write(session, counted)


def _complete(session: Session, source: Source, since: datetime, until: datetime) -> None:
    if hour_of(since) < hour_of(until):
        _add_up_hours(session, source.model, hour_of(since), hour_of(until))
    later = RollUp.name == source.name, RollUp.complete_until < until
    session.execute(sa.update(RollUp).where(*later).values(complete_until=until))
    if source.totals is not None:
        _add_to_totals(session, source.model, source.totals)


def _add_to_totals(session: Session, model: type[Base], totals: type[Base]) -> None:
    """Add the minutes that all sources of a model have completed, each once."""
    name = f"totals.{table_of(totals).name}"
    until = complete_until(session, *(each.name for each in _sources if each.model is model))
    if until is None:
        return
    row = {"name": name, "complete_until": until}
    if insert_ignoring_conflicts(session, RollUp, [row], "name"):
        add_to_totals(session, model, totals, None, until)
        return
    since = session.execute(sa.select(RollUp.complete_until).where(RollUp.name == name).with_for_update()).scalar_one()
    if since < until:
        add_to_totals(session, model, totals, since, until)
        session.execute(sa.update(RollUp).where(RollUp.name == name).values(complete_until=until))


def _add_up_hours(session: Session, model: type[Base], since: datetime, until: datetime) -> None:
    table = table_of(model)
    keys = [column for column in table.primary_key if column.name not in ("resolution", "at")]
    counts = [column for column in table.c if not column.primary_key]
    hour = hour_in_sql(table.c.at)
    minutes = sa.select(
        sa.literal(Resolution.HOUR.value), hour, *keys, *(sa.func.sum(column) for column in counts)
    ).where(table.c.resolution == Resolution.MINUTE, table.c.at >= since, table.c.at < until)
    statement = insert_into(table, session.get_bind().dialect.name).from_select(
        ["resolution", "at", *(column.name for column in [*keys, *counts])],
        minutes.group_by(hour, *keys).order_by(hour, *keys),
    )
    session.connection().execute(_keeping_larger(statement, table))


def rows_of_minutes(names: Sequence[str], counts: Iterable[tuple[tuple[Any, ...], str, int]]) -> list[dict[str, Any]]:
    """Return rows for `write_counts` of a model that is `Counted`, with those of all schools together.

    Args:
        names: the columns of the key after `school_id` and `at`.
        counts: the values of the key, in the order `at`, `school_id`, `names`; a column; the number to add to it.
    """
    rows: defaultdict[tuple[Any, ...], defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for (at, school_id, *rest), column, number in counts:
        for id in (school_id, ALL_ID):
            rows[at, id, *rest][column] += number
    columns = "at", "school_id", *names
    return [
        {"resolution": Resolution.MINUTE, **dict(zip(columns, key, strict=True)), **values}
        for key, values in rows.items()
    ]


def write_counts(session: Session, model: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of counts. Of rows that exist, each count becomes the larger one of both.

    Args:
        session: whose transaction.
        model: a model whose key includes `resolution` and `at`, and whose other columns are counts.
        rows: the values of all columns of its key, and of its counts, all of the same.
    """
    if not rows:
        return
    table = table_of(model)
    names = [column.name for column in table.c]
    keys = [column.name for column in table.primary_key]
    complete = [dict.fromkeys(names, 0) | dict(row) for row in rows]
    # In one order, so that two sources that write the same rows wait for each other and do not deadlock.
    complete.sort(key=lambda row: [row[name] for name in keys])
    statement = insert_into(table, session.get_bind().dialect.name)
    session.connection().execute(_keeping_larger(statement, table), complete)


def _keeping_larger(statement: Any, table: sa.Table) -> Any:
    counts = [column for column in table.c if not column.primary_key]
    larger = {
        column.name: sa.case((statement.excluded[column.name] > column, statement.excluded[column.name]), else_=column)
        for column in counts
    }
    return statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=larger)
