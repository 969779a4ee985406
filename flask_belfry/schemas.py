"""The base of the schemas of APIs: pages of lists, times and text. Only the web process imports it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import Any

import marshmallow as ma
from marshmallow import validate

from flask_belfry.core.text import CONTROL_CHARACTERS, CONTROL_CHARACTERS_REFUSED
from flask_belfry.db.pagination import DEFAULT_LIMIT, MAX_LIMIT, Page


class Schema(ma.Schema):
    """The base of every schema: unknown fields are rejected, and the document says so."""

    class Meta:
        # marshmallow's default; if explicit, it becomes `additionalProperties: false` in the document.
        unknown = ma.RAISE


class QueryOfPage(Schema):
    """The query parameters of every list."""

    limit = ma.fields.Integer(
        load_default=DEFAULT_LIMIT,
        validate=validate.Range(1, MAX_LIMIT),
        metadata={"description": "The maximum number of items of a page."},
    )
    cursor = ma.fields.String(
        load_default=None,
        validate=validate.Length(max=500),
        metadata={"description": "`next_cursor` of the previous page."},
    )


def page_schema(item: type[ma.Schema]) -> type[ma.Schema]:
    """Return the schema of a page of a list of `item`."""
    fields: dict[str, ma.fields.Field[Any]] = {
        "items": ma.fields.List(ma.fields.Nested(item), required=True),
        "next_cursor": ma.fields.String(
            required=True, allow_none=True, metadata={"description": "null on the last page."}
        ),
    }
    return type(f"{item.__name__.removesuffix('Schema')}PageSchema", (Schema,), fields)


def page_response(page: Page[Any]) -> Mapping[str, Any]:
    """Return a page for its schema."""
    return {"items": page.items, "next_cursor": page.next_cursor}


class Moment(ma.fields.AwareDateTime):
    """A time with an offset, loaded as UTC. A time at either end of the calendar may not exist in UTC."""

    def __init__(self, **options: Any) -> None:
        super().__init__(format="iso", **options)

    def _deserialize(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._deserialize(*args, **kwargs).astimezone(UTC)
        except OverflowError as error:
            raise self.make_error("invalid", input=args[0], obj_type=self.OBJ_TYPE) from error


def check_control_characters(text: str) -> None:
    """Validate text: raise ValidationError for control characters."""
    if CONTROL_CHARACTERS.search(text):
        raise ma.ValidationError(CONTROL_CHARACTERS_REFUSED)
