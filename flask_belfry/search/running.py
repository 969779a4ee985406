"""Runs queries at a bounded cost.

A query is driven by one index: its rows with given values, newest first. What the index does not have is compared in
the newest WINDOW of these rows. The next page continues where this one stopped, so that each row is reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import product
from math import prod
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.db.columns import time_of_id
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page, Row, cursor_after, page_by_key, values_of_cursor
from flask_belfry.db.tenancy import ALL_TENANTS, current_scope, use_scope
from flask_belfry.search.language import Index, Query, is_value

# The most rows that are compared with what no index has.
WINDOW = 10_000
# The most ranges of an index that are read for one search: one for each combination of values.
MAX_RANGES = 50
# The most different values of a column that patterns are compared with.
MAX_DIFFERENT = 1_000


@dataclass(frozen=True)
class SearchPage(Page[Row]):
    """Some of the rows that match. With `searched_to`, those created since then were searched, and `next_cursor`
    continues with older ones."""

    searched_to: datetime | None = None


def find(session: Session, query: Query, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> SearchPage[Any]:
    """Return a page of rows, newest first. The arguments are those of `page_by_key`."""
    key = (query.language.model.id,)
    after = values_of_cursor(cursor, key)[0] if cursor else None
    plan = _plan(session, query, after, descending=True)
    if plan is None:
        return SearchPage([], None)
    rows = sa.select(query.language.model)
    if plan.is_merged:
        ids = _merged_ids(session, query, plan, limit + 1, after)
        rows = _hinted(rows.where(key[0].in_(ids)), query, query.language.primary_key)
    elif plan.is_small and session.get_bind().dialect.name == "postgresql":
        found = _all_matching(query, plan)
        found = found if after is None else found.where(found.selected_columns[0] < after)
        ids = session.scalars(found.order_by(found.selected_columns[0].desc()).limit(limit + 1)).all()
        rows = rows.where(key[0].in_(ids))
    else:
        rows = _hinted(rows.where(*plan.conditions(query)), query, plan.index)
    page = page_by_key(session, rows, key, limit=limit, cursor=cursor)
    if page.next_cursor or plan.last_id is None:
        return SearchPage(page.items, page.next_cursor)
    searched_to = time_of_id(plan.last_id) if len(page.items) < limit else None
    return SearchPage(page.items, cursor_after([plan.last_id]), searched_to)


def count(session: Session, query: Query, limit: int) -> tuple[int, bool]:
    """Return how many rows match, and whether there may be more: counted up to `limit`."""
    plan = _plan(session, query, None, descending=True)
    if plan is None:
        return 0, False
    id = query.language.model.id
    found = 0
    if plan.is_exact:
        parts = [_of_range(query, plan, values, None) for values in plan.ranges]
    elif plan.is_small:
        parts = [_all_matching(query, plan)]
    else:
        # In the order of the index: PostgreSQL could prefer to scan the table until it has found so many.
        parts = [_hinted(sa.select(id).where(*plan.conditions(query)), query, plan.index).order_by(id.desc())]
    for rows in parts:
        first = rows.limit(limit + 1 - found)
        found += session.scalar(sa.select(sa.func.count()).select_from(first.subquery())) or 0
        if found > limit:
            break
    return min(found, limit), found > limit or plan.last_id is not None


def next_ids(
    session: Session, query: Query, *conditions: sa.ColumnElement[bool], limit: int, after: str | None = None
) -> tuple[list[str], str | None]:
    """Return the ids of the next rows that match, the oldest first, and the id after which there may be more.

    Args:
        session: where to read.
        query: the search.
        conditions: that the rows must meet too.
        limit: the most ids. There may be fewer, also none, and yet more after them.
        after: the id after which to begin.
    """
    plan = _plan(session, query, after, descending=False, has_more=bool(conditions))
    if plan is None:
        return [], None
    if plan.is_merged:
        found = _merged_ids(session, query, plan, limit + 1, after)
    else:
        id = query.language.model.id
        rows = sa.select(id).where(*plan.conditions(query), *conditions)
        rows = rows if after is None else rows.where(id > after)
        found = list(session.scalars(_hinted(rows, query, plan.index).order_by(id).limit(limit + 1)))
    if len(found) > limit:
        return found[:limit], found[limit - 1]
    return found, plan.last_id


def recorded_values(session: Session, column: Any, patterns: Sequence[str]) -> list[str]:
    """Return the different values of a column, which an index begins with, that match a pattern.

    Each is found by a jump in the index, so that the cost depends on their number alone. Only in the scope of all rows:
    others would be passed over one by one.
    """
    first = sa.select(sa.func.min(column).label("value")).cte("different", recursive=True)
    following = sa.select(sa.func.min(column)).where(column > first.c.value).scalar_subquery()
    different = first.union_all(sa.select(following).where(first.c.value.is_not(None)))
    query = sa.select(different.c.value).where(different.c.value.is_not(None)).limit(MAX_DIFFERENT)
    # In these, only `*` has a meaning.
    escaped = [pattern.lower().replace("[", "[[]").replace("?", "[?]") for pattern in patterns]
    return [value for value in session.scalars(query) if any(fnmatchcase(value.lower(), each) for each in escaped)]


def conditions(query: Query) -> list[Any]:
    """Return the conditions for all rows that match, for a statement of the caller, whose cost is not bounded."""
    values = _values(query)
    if values is None:
        return [sa.false()]
    return _conditions(query, values)


@dataclass(frozen=True)
class _Plan:
    """How a query is run.

    Args:
        index: that drives it.
        ranges: the values in the columns of the index, one range of it for each combination.
        values: the values of columns, also those of the scope and of patterns.
        is_exact: whether each row of the ranges matches.
        descending: whether the newest rows come first.
        last_id: the last row that is compared; None when all are.
    """

    index: Index
    ranges: Sequence[Sequence[Any]]
    values: Mapping[str, frozenset[Any]]
    is_exact: bool
    descending: bool
    last_id: str | None = None

    @property
    def is_merged(self) -> bool:
        """Whether the rows are the first ones of several ranges, or of one with NULL, whose order PostgreSQL does not
        see."""
        return self.is_exact and (len(self.ranges) > 1 or None in self.ranges[0])

    @property
    def is_small(self) -> bool:
        """Whether all rows of the ranges are compared, which are fewer than WINDOW."""
        return not self.is_exact and self.last_id is None

    def conditions(self, query: Query) -> list[Any]:
        """The conditions for the rows that match and are compared."""
        found = _conditions(query, self.values)
        if self.last_id is not None:
            id = query.language.model.id
            found.append(id >= self.last_id if self.descending else id <= self.last_id)
        return found


def _conditions(query: Query, values: Mapping[str, frozenset[Any]]) -> list[Any]:
    found: list[Any] = [_is_among(query.language.column(column), among) for column, among in values.items()]
    # A partial index has only the rows that its keys are about.
    partial = [index for index in query.language.indexes if index.condition is not None]
    found += [index.condition for index in partial if values.keys() >= set(index.columns)]
    return [*found, *_id_bounds(query), *query.times, *query.filters]


def _plan(
    session: Session, query: Query, after: str | None, *, descending: bool, has_more: bool = False
) -> _Plan | None:
    """Return how to run a query; None when nothing can match.

    Args:
        after: the row after which to begin.
        descending: whether the newest rows come first.
        has_more: whether the rows must meet further conditions.
    """
    values = _values(query)
    if values is None or not all(values.values()):
        return None
    best: _Plan | None = None
    for index in _usable(query, values):
        ranges = list(product(*(_of_column(query, values, column) for column in index.columns)))
        is_exact = not (query.filters or query.times or has_more or values.keys() - set(index.columns))
        plan = _Plan(index, ranges, values, is_exact, descending)
        if not is_exact:
            plan = replace(plan, last_id=_last_compared(session, query, plan, after))
        if plan.last_id is None:
            return plan
        if best is None or best.last_id is None or (plan.last_id < best.last_id) == descending:
            best = plan
    return best


def _values(query: Query) -> dict[str, frozenset[Any]] | None:
    """Return the values of columns that may match, with those of the patterns and of the scope; None for no scope."""
    values = dict(query.values)
    for column, patterns in query.patterns.items():
        values[column] = values[column] | frozenset(query.language.values_like(column, patterns))
    scope = current_scope()
    if scope.sees_all:
        return values
    if scope.school_id is None:
        return None
    own = frozenset([scope.school_id])
    values["school_id"] = own & values.get("school_id", own)
    return values


def _usable(query: Query, values: Mapping[str, frozenset[Any]]) -> list[Index]:
    """Return the indexes that can drive a query, the most selective first; the primary key if there is none."""
    found: list[Index] = []
    for index in query.language.indexes:
        columns = set(index.columns)
        expanded = {column for column in columns - values.keys() if index.is_narrow and query.language.domain(column)}
        if not columns & values.keys() or columns - values.keys() - expanded:
            continue
        if "school_id" in values and not (index.is_narrow or "school_id" in columns):
            continue
        if any(columns & values.keys() <= set(other.columns) & values.keys() for other in found):
            continue
        if prod(len(_of_column(query, values, column)) for column in columns) <= MAX_RANGES:
            found.append(index)
    return found or [query.language.primary_key]


def _of_column(query: Query, values: Mapping[str, frozenset[Any]], column: str) -> frozenset[Any]:
    return values.get(column) or query.language.domain(column)


def _last_compared(session: Session, query: Query, plan: _Plan, after: str | None) -> str | None:
    """Return the last of WINDOW rows that are compared; None when these are all."""
    size = max(1, WINDOW // len(plan.ranges))
    firsts = (_of_range(query, plan, values, after).offset(size - 1).limit(1) for values in plan.ranges)
    # Where the index does not have the school, the rows of others are read too: they count.
    with use_scope(ALL_TENANTS):
        ends = [end for first in firsts if (end := session.scalar(first)) is not None]
    return (max if plan.descending else min)(ends, default=None)


def _merged_ids(session: Session, query: Query, plan: _Plan, number: int, after: str | None) -> list[str]:
    """Return the first ids of all ranges together."""
    ranges = (_of_range(query, plan, values, after).limit(number) for values in plan.ranges)
    ids = sorted((id for rows in ranges for id in session.scalars(rows)), reverse=plan.descending)
    return ids[:number]


def _all_matching(query: Query, plan: _Plan) -> sa.Select[Any]:
    """Return the ids of all rows of a small plan that match, in no order.

    PostgreSQL does not know that they are few: to have the newest first, it could read the whole table in the order of
    ids. So it finds them before they are sorted.
    """
    rows = _hinted(sa.select(query.language.model.id).where(*plan.conditions(query)), query, plan.index)
    return sa.select(rows.cte("matching").prefix_with("MATERIALIZED", dialect="postgresql").c.id)


def _of_range(query: Query, plan: _Plan, values: Sequence[Any], after: str | None) -> sa.Select[Any]:
    """Return the ids of one range of the index, in its order."""
    id = query.language.model.id
    columns = [(query.language.column(name), value) for name, value in zip(plan.index.columns, values, strict=True)]
    rows = sa.select(id).where(*(is_value(column, value) for column, value in columns), *_id_bounds(query))
    if plan.index.condition is not None:
        rows = rows.where(plan.index.condition)
    if after is not None:
        rows = rows.where(id < after if plan.descending else id > after)
    # PostgreSQL does not see that the rows with NULL in a column of an index have the order of their ids.
    order = [*(column for column, value in columns if value is None), id]
    rows = rows.order_by(*(column.desc() if plan.descending else column.asc() for column in order))
    return _hinted(rows, query, plan.index)


def _id_bounds(query: Query) -> list[sa.ColumnElement[bool]]:
    id = query.language.model.id
    bounds = [id >= query.lowest_id] if query.lowest_id else []
    return [*bounds, id < query.highest_id] if query.highest_id else bounds


def _is_among(column: Any, values: frozenset[Any]) -> sa.ColumnElement[bool]:
    if len(values) == 1:
        return is_value(column, next(iter(values)))
    if isinstance(column, sa.Tuple):
        # Not IN: SQLite would read the whole index for it.
        return sa.or_(*(sa.and_(*map(is_value, column.clauses, value)) for value in sorted(values)))
    among = column.in_(sorted(values - {None}))
    return sa.or_(among, column.is_(None)) if None in values else among


def _hinted(rows: sa.Select[Any], query: Query, index: Index) -> sa.Select[Any]:
    return rows.with_hint(query.language.model, f"INDEXED BY {index.name}", "sqlite")
