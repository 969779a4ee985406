"""Steps: the pages of a job that is too long for one transaction. A page's changes commit together with the cursor.

The cursor is a column of the job's record: it describes, for each loop over steps, the last committed page. Its commit
is fenced like the job's completion. A job that runs again, after a crash, a failure or a shutdown, continues there, so
that the effect of each page happens once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import QueryableAttribute, Session

from flask_belfry.db.columns import text_problem
from flask_belfry.db.pagination import is_after
from flask_belfry.execution.claim import IS_HELD, RECORDS, Claim, held_values
from flask_belfry.execution.commits import commit_allowed
from flask_belfry.execution.errors import ClaimLostError, JobCancelledError, JobStepsError, JobStoppedError
from flask_belfry.execution.time_limits import PageLimit

# Counting rows stops here: with more of them the total is not known.
MAX_TOTAL = 1_000_000
MAX_NAME_CHARACTERS = 80
# The whole cursor is written with every page.
MAX_LOOPS = 100

Key = Sequence[QueryableAttribute[Any]]
# JSON has neither of these.
_WRITERS: dict[type, Callable[[Any], str]] = {
    datetime: datetime.isoformat,
    date: date.isoformat,
    Decimal: str,
    UUID: str,
}
_READERS: dict[str, Callable[[str], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "Decimal": Decimal,
    "UUID": UUID,
}
_ADVANCE = (
    sa.update(RECORDS)
    .where(IS_HELD)
    # A committed page ends a series of interruptions, as a finished attempt does.
    .values(cursor=sa.bindparam("at", type_=RECORDS.c.cursor.type), interruptions=0, suspicion=0)
    .returning(RECORDS.c.cancel_requested)
)
_ADVANCE_AND_REPORT = _ADVANCE.values(progress_done=sa.bindparam("done"), progress_total=sa.bindparam("total"))


class Source(Protocol):
    """What a loop goes through. `key` names the order of its rows."""

    key: list[str]

    def read(self, after: list[Any] | None, size: int) -> tuple[Sequence[Any], list[Any]]:
        """Return the rows of the next page, and the position of its last one as JSON values."""
        ...

    def count(self) -> int | None:
        """Return the number of all rows; None when there are too many to count."""
        ...


class Rows:
    """The rows of a query, in the order of a key.

    Args:
        session: where to read.
        query: a select of an entity, or of columns among which the key is.
        key: columns that are never NULL; those of the primary key are added. Without it, the primary key.

    Raises:
        JobStepsError: the query or the key is invalid.
    """

    def __init__(self, session: Session, query: sa.Select[*tuple[Any, ...]], key: Key) -> None:
        first, *others = descriptions = query.column_descriptions
        entity: Any = first.get("entity")  # SQLAlchemy leaves it out where nothing is mapped
        if entity is None:
            raise JobStepsError("the query must select an entity, or columns of one")
        if _is_limited(query):
            raise JobStepsError("the query must not have a limit or an offset: `size` is that of a page")
        inspected: Any = sa.inspect(entity)
        mapper = inspected.mapper
        own = [getattr(entity, mapper.get_property_by_column(column).key) for column in mapper.primary_key]
        names = {column.key for column in key if column.class_ is mapper.class_}
        self._columns: list[QueryableAttribute[Any]] = [*key, *(each for each in own if each.key not in names)]
        if nullable := [column.key for column in self._columns if _is_nullable(column)]:
            raise JobStepsError(f"the key must not be NULL: {nullable[0]} can be")
        self.key = [column.key for column in self._columns]
        self._session = session
        self._query = query
        self._is_entity = first["expr"] is entity
        self._is_single = self._is_entity and not others
        if not self._is_entity:
            selected = [each["name"] for each in descriptions]
            if missing := [name for name in self.key if name not in selected]:
                raise JobStepsError(f"the query must select its key: {missing[0]} is missing")
            self._positions = [selected.index(name) for name in self.key]

    def read(self, after: list[Any] | None, size: int) -> tuple[Sequence[Any], list[Any]]:
        """Return the rows of the next page, and the key of its last one as JSON values."""
        query = self._query.order_by(None).order_by(*self._columns).limit(size)
        if after is not None:
            query = query.where(is_after(self._columns, [_from_json(value) for value in after]))
        result = self._session.execute(query)
        # A join may repeat the entity, and a joined eager load does.
        rows = result.scalars().unique().all() if self._is_single else result.all()
        keys = [self._key_of(row) for row in rows]
        if len(set(keys)) < len(keys):
            raise JobStepsError(f"the key must be unique: several rows have {self.key} = {keys[-1]}")
        return rows, [_to_json(value) for value in keys[-1]] if keys else []

    def count(self) -> int | None:
        """Return the number of all rows; None above MAX_TOTAL, and for a query that would lock them all."""
        if _is_locking(self._query):
            return None
        rows = self._query.order_by(None).limit(MAX_TOTAL + 1).subquery()
        count = self._session.scalar(sa.select(sa.func.count()).select_from(rows)) or 0
        return count if count <= MAX_TOTAL else None

    def _key_of(self, row: Any) -> tuple[Any, ...]:
        if self._is_entity:
            entity = row if self._is_single else row[0]
            return tuple(getattr(entity, name) for name in self.key)
        return tuple(row[position] for position in self._positions)


class Items:
    """The items of a sequence, by their index."""

    key = ["index"]

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items

    def read(self, after: list[Any] | None, size: int) -> tuple[Sequence[Any], list[Any]]:
        """Return the items of the next page, and how many there are up to its end."""
        begin = after[0] if after else 0
        page = self._items[begin : begin + size]
        return page, [begin + len(page)]

    def count(self) -> int:
        """Return the number of all items."""
        return len(self._items)


class Stepper:
    """The loops over steps of one claim.

    Args:
        claim: the claim.
        session: the session of the job, whose transaction a page is.
        should_stop: whether the process is about to end.
        time_limit: the job's time limit, which starts again with each page.
    """

    def __init__(self, claim: Claim, session: Session, should_stop: Callable[[], bool], time_limit: PageLimit) -> None:
        self._claim = claim
        self._session = session
        self._should_stop = should_stop
        self._time_limit = time_limit
        # Of what the open transaction contains: also the page that the function works on.
        self._cursor: dict[str, dict[str, Any]] = dict(claim.cursor or {})
        self._begun: list[str] = []
        self._is_within_page = self._is_stopped = self._is_cancelled = False

    def pages(
        self,
        source: sa.Select[*tuple[Any, ...]] | Sequence[Any],
        size: int,
        name: str,
        key: QueryableAttribute[Any] | Key | None,
        total: int | None,
        has_own_progress: Callable[[], bool],
    ) -> Iterator[Sequence[Any]]:
        """Return the pages of a loop, see `RunningJob.steps`."""
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise JobStepsError(f"size must be an integer from 1 on, not {size!r}")
        if problem := text_problem(name, MAX_NAME_CHARACTERS):
            raise JobStepsError(f"the name of steps {problem}, not {name!r}")
        if name in self._begun:
            raise JobStepsError(f"the steps {name!r} were begun before: give each loop of the job its own name")
        if name not in self._cursor and len(self._cursor) >= MAX_LOOPS:
            raise JobStepsError(f"a job can have steps of at most {MAX_LOOPS} names")
        rows: Source
        if isinstance(source, sa.Select):
            columns = (key,) if isinstance(key, QueryableAttribute) else key or ()
            rows = Rows(self._session, source, columns)
        elif isinstance(source, Sequence) and not isinstance(source, str | bytes) and key is None:
            rows = Items(source)
        else:
            raise JobStepsError(f"steps go through a select, or a sequence without a key, not {type(source).__name__}")
        self._begun.append(name)
        return self._pages(rows, size, name, total, has_own_progress)

    def check_stopped(self) -> None:
        """Raise JobStoppedError when a loop raised it and the function caught it: the job is not completed."""
        if self._is_stopped:
            raise JobStoppedError("the process is about to end")

    def _pages(
        self, source: Source, size: int, name: str, total: int | None, has_own_progress: Callable[[], bool]
    ) -> Iterator[Sequence[Any]]:
        if self._is_within_page:
            raise JobStepsError(
                "steps cannot be nested: the commit of the inner page would commit half of the outer one"
            )
        at = self._cursor.get(name)
        if at is None:
            at = {"key": source.key, "after": None, "done": 0, "total": source.count() if total is None else total}
        elif at["key"] != source.key:
            raise JobStepsError(
                f"the cursor of steps {name!r} has the key {at['key']}, not {source.key}: use a new name"
            )
        while True:
            page, after = source.read(at["after"], size)
            if not page:
                return
            self._check_interruption()
            done = at["done"] + len(page)
            total = at["total"] if at["total"] is None else max(at["total"], done)  # some may be new
            self._cursor[name] = at = {**at, "after": after, "done": done, "total": total}
            self._is_within_page = True
            try:
                yield page
            finally:
                self._is_within_page = False
            self._commit(None if has_own_progress() else at)

    def _check_interruption(self) -> None:
        # With the next page known: a job that has none is not interrupted, it completes.
        if self._is_cancelled:
            raise JobCancelledError("cancelled by a user")
        self._is_stopped = self._should_stop()
        self.check_stopped()

    def _commit(self, progress: Mapping[str, Any] | None) -> None:
        """Commit the page, unless the claim is lost."""
        session = self._session
        if session.in_nested_transaction():
            raise JobStepsError("a savepoint is open at the end of the page")
        session.flush()
        self._time_limit.pause()
        values = {"at": self._cursor, **held_values([self._claim])}
        if progress is not None:
            values |= {"done": progress["done"], "total": progress["total"]}
        statement = _ADVANCE if progress is None else _ADVANCE_AND_REPORT
        row = session.connection().execute(statement, values).first()
        if row is None:
            raise ClaimLostError(f"claim {self._claim.number} of {self._claim.name} is no longer the latest")
        with commit_allowed():
            session.commit()
        self._is_cancelled = row.cancel_requested
        self._time_limit.restart()


# SQLAlchemy has no public names for these two.


def _is_limited(query: sa.Select[*tuple[Any, ...]]) -> bool:
    return query._has_row_limiting_clause  # noqa: SLF001


def _is_locking(query: sa.Select[*tuple[Any, ...]]) -> bool:
    return query._for_update_arg is not None  # noqa: SLF001


def _is_nullable(column: QueryableAttribute[Any]) -> bool:
    columns = getattr(column.property, "columns", None)
    if not columns:
        raise JobStepsError(f"the key must be columns, not {column.key}")
    return columns[0].nullable


def _to_json(value: Any) -> Any:
    if isinstance(value, str | int | float):
        return value
    for type_, write in _WRITERS.items():
        if isinstance(value, type_):
            return {type_.__name__: write(value)}
    raise JobStepsError(f"the key must be numbers, texts, times or UUIDs, not {type(value).__name__}")


def _from_json(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((name, text),) = value.items()
    return _READERS[name](text)
