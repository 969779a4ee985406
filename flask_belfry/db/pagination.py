"""Paging by key: a page begins after the last row of the one before, so page 1,000 costs what page 1 costs, and rows
that arrive meanwhile move nothing. For pages and API alike."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, QueryableAttribute, Session

from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db.columns import MAX_INTEGER, UtcDateTime, as_uuid_text, is_storable

DEFAULT_LIMIT = 25
MAX_LIMIT = 100

Row = TypeVar("Row")
Key = Sequence[InstrumentedAttribute[Any]]


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Some rows of a list, and the cursor of the next page (None on the last page)."""

    items: Sequence[Row]
    next_cursor: str | None


def page_by_key(
    session: Session,
    query: sa.Select[Row],
    key: Key,
    *,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    descending: bool = True,
) -> Page[Row]:
    """Return one page of a query of whole rows.

    Args:
        session: where to read.
        query: a select of one model, filtered, without an order of its own.
        key: columns that together are unique and never NULL: the order of the list. An index should have them.
        limit: the most rows, 1 to `MAX_LIMIT`.
        cursor: `next_cursor` of the page before; None begins the list.
        descending: whether the highest keys come first.

    Raises:
        InvalidInputError: the limit is out of range, or the cursor does not belong to this list.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInputError("The limit is out of range.", {"limit": [f"must be 1 to {MAX_LIMIT}"]})
    if cursor:
        query = query.where(is_after(key, values_of_cursor(cursor, key), descending=descending))
    order = [column.desc() if descending else column.asc() for column in key]
    # One row more than the limit shows whether there is a next page, without a count.
    rows = list(session.scalars(query.order_by(*order).limit(limit + 1)))
    if len(rows) <= limit:
        return Page(rows, None)
    return Page(rows[:limit], _write_cursor(rows[limit - 1], key))


def merge_pages(pages: Sequence[Page[Any]], key: Key, *, limit: int) -> Page[Any]:
    """One page of several lists that have the same key, from a page of each of them that begins at the same cursor.

    Args:
        pages: of `page_by_key`, in descending order, with the same limit.
        key: of one of the lists; the others have columns of the same names and types.
        limit: the most rows.
    """
    names = [column.key for column in key]
    rows = [row for page in pages for row in page.items]
    rows.sort(key=lambda row: [getattr(row, name) for name in names], reverse=True)
    has_more = len(rows) > limit or any(page.next_cursor for page in pages)
    return Page(rows[:limit], _write_cursor(rows[limit - 1], key) if has_more else None)


def is_after(
    key: Sequence[QueryableAttribute[Any]], values: Sequence[Any], *, descending: bool = False
) -> sa.ColumnElement[bool]:
    """Return the condition for the rows after the one with these values of a key."""
    # A row value, not `a < x OR (a = x AND b < y)`: both databases use an index for it.
    left = sa.tuple_(*key)
    right = sa.tuple_(*(sa.literal(value, column.type) for value, column in zip(values, key, strict=True)))
    return left < right if descending else left > right


def _write_cursor(row: object, key: Key) -> str:
    return cursor_after([getattr(row, column.key) for column in key])


def cursor_after(values: Sequence[object]) -> str:
    """Return the cursor of the page that begins after the row with these values of the key."""
    values = [_to_plain(value) for value in values]
    return base64.urlsafe_b64encode(json.dumps(values, separators=(",", ":")).encode()).decode().rstrip("=")


def values_of_cursor(cursor: str, key: Key) -> list[Any]:
    """Return the values of the key after which a page begins. Raises InvalidInputError for an invalid cursor."""
    try:
        values = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        return [_from_plain(value, column) for value, column in zip(values, key, strict=True)]
    except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError) as error:
        message = "must be the next_cursor of the previous page"
        raise InvalidInputError("This page of the list does not exist.", {"cursor": [message]}) from error


def _to_plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _from_plain(value: object, column: InstrumentedAttribute[Any]) -> object:
    if isinstance(column.type, UtcDateTime):
        return _moment(value)
    if isinstance(column.type, sa.Uuid):
        return _uuid_text(value)
    if type(value) is not column.type.python_type or (isinstance(value, int) and abs(value) > MAX_INTEGER):
        raise ValueError(value)
    if isinstance(value, str) and not is_storable(value):
        raise ValueError(value)
    return value


def _uuid_text(value: object) -> str:
    id = as_uuid_text(value)
    if id is None:
        raise ValueError(value)
    return id


def _moment(value: object) -> datetime:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    if moment is None or moment.tzinfo is None:
        raise ValueError(value)
    return moment.astimezone(UTC)  # the far ends of the calendar overflow here, and not in the query
