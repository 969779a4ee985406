"""The rows of a model in the panel: pages of the list by key instead of offsets and counts, and rows by their keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from flask import request
from flask_admin.tools import iterdecode

from app.admin.base import BaseView
from app.admin.fields import label_of
from flask_belfry.core.errors import InvalidInputError, NotFoundError
from flask_belfry.core.text import CONTROL_CHARACTERS, query_text
from flask_belfry.db import db
from flask_belfry.db.columns import MAX_INTEGER, UtcDateTime, as_uuid_text, in_utc
from flask_belfry.db.pagination import MAX_LIMIT, Page, page_by_key
from flask_belfry.db.tenancy import use_scope

EXPORT_ROWS = 100_000


class RowsView(BaseView):
    """Reads the rows of a model: a page of the list, all of them for the export, one, or the selected ones."""

    def _page(self, limit: int, cursor: str | None) -> Page[Any]:
        order = query_text("order") or ""
        column = order.removeprefix("-")
        if column not in self._sortable_columns:
            column, order = self.key[0], "-"
        first = self.key if column in self.key else [column, *self.key]
        key = [getattr(self.model, name) for name in first]
        return page_by_key(
            db.session(), self._query(), key, limit=limit, cursor=cursor, descending=order.startswith("-")
        )

    def _query(self) -> sa.Select[Any]:
        query = sa.select(self.model)
        for each in self.filters:
            value = query_text(each.parameter)
            # Invalid values are ignored, as on every page.
            if value and each.validate(value):
                query = each.apply(query, each.clean(value))
        text = query_text("text")
        return query.where(self._matches(text)) if text else query

    def _matches(self, text: str) -> sa.ColumnElement[bool]:
        columns = [getattr(self.model, str(name)) for name in self.column_searchable_list or ()]
        found: list[Any] = [column.icontains(text, autoescape=True) for column in columns]
        key = getattr(self.model, self.key[0])
        try:
            found.append(key == _as_key(key.type, text.removeprefix("#")))
        except ValueError:
            found.append(sa.false())
        return sa.or_(*found)

    def _orders(self) -> list[tuple[str, str]]:
        names = [str(name) for name in self._sortable_columns]
        up = [(name, f"{label_of(name)}, ascending") for name in names]
        down = [(f"-{name}", f"{label_of(name)}, descending") for name in names]
        return [pair for pairs in zip(down, up, strict=True) for pair in pairs]

    def _all_rows(self, scope: Any) -> Iterator[Any]:
        # In pages: no transaction stays open while a slow client reads the file, and memory does not grow.
        cursor, left = None, EXPORT_ROWS
        while left > 0:
            with use_scope(scope):
                page = self._page(min(MAX_LIMIT, left), cursor)
            yield from page.items
            db.session.rollback()
            cursor, left = page.next_cursor, left - MAX_LIMIT
            if cursor is None:
                return

    def _row(self, *, for_update: bool = False) -> Any:
        found = self._rows([self._identity()], for_update=for_update)
        if not found:
            raise NotFoundError(f"This row does not exist in {self.name}.")
        return found[0]

    def _identity(self) -> str:
        return request.args.get("id", "")

    def _chosen(self, ids: Sequence[str]) -> list[Any]:
        if len(ids) > MAX_LIMIT:
            raise InvalidInputError(f"Select at most {MAX_LIMIT} rows.")
        rows = self._rows(ids, for_update=True)
        if len(rows) != len(set(ids)):
            raise NotFoundError("Some of these rows no longer exist; nothing was changed.")
        return rows

    def _rows(self, ids: Iterable[str], *, for_update: bool) -> list[Any]:
        columns = [getattr(self.model, name) for name in self.key]
        try:
            wanted = [self._key_of(id) for id in set(ids)]
        except ValueError as error:
            raise NotFoundError(f"This row does not exist in {self.name}.") from error
        matches = [sa.and_(*(column == part for column, part in zip(columns, parts, strict=True))) for parts in wanted]
        query = sa.select(self.model).where(sa.or_(sa.false(), *matches)).order_by(*columns)
        if for_update:
            query = query.with_for_update().execution_options(populate_existing=True)
        return list(db.session.scalars(query))

    def _key_of(self, id: str) -> list[Any]:
        parts = iterdecode(id)
        if len(parts) != len(self.key):
            raise ValueError(id)
        return [_as_key(self.types[name], part) for name, part in zip(self.key, parts, strict=True)]


def _as_key(type_: sa.types.TypeEngine[Any], text: str) -> Any:
    """Return a part of a key from a URL. Raises ValueError if it is invalid."""
    if isinstance(type_, sa.Uuid):
        id = as_uuid_text(text)
        if id is None:
            raise ValueError(text)
        return id
    if isinstance(type_, sa.Integer):
        number = int(text)
        if abs(number) > MAX_INTEGER:
            raise ValueError(text)
        return number
    if isinstance(type_, UtcDateTime):
        return in_utc(datetime.fromisoformat(text))
    if CONTROL_CHARACTERS.search(text):
        raise ValueError(text)
    return text
