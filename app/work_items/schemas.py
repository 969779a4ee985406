"""Schemas of work items in the API. The kinds differ in the names of two fields: `owner_id` or `assignee_id`, and
`epic_id` or `story_id`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import marshmallow as ma
from marshmallow import validate

from app.api import MAX_ID
from app.api.web import QueryOfPage, Schema, check_control_characters, id_field
from app.work_items.models import (
    MAX_COMMENT_CHARACTERS,
    MAX_DESCRIPTION_CHARACTERS,
    MAX_TITLE_CHARACTERS,
    Kind,
    Priority,
    WorkStatus,
)
from app.work_items.queries import MAX_BULK_ITEMS
from app.work_items.services import Parts

Field = ma.fields.Field[Any]


class WorkItemFields(Schema):
    """Fields that clients set."""

    title = ma.fields.String(validate=[validate.Length(1, MAX_TITLE_CHARACTERS), check_control_characters])
    description = ma.fields.String(validate=[validate.Length(max=MAX_DESCRIPTION_CHARACTERS), check_control_characters])
    status = ma.fields.Enum(WorkStatus, by_value=True)
    priority = ma.fields.Enum(Priority, by_value=True)
    due_date = ma.fields.Date(
        allow_none=True, metadata={"description": "ISO 8601 date by which the item is to be done."}
    )
    reporter_id = id_field("Reporter; default: the user of the token.")


class WorkItemSchema(Schema):
    """A work item."""

    id = ma.fields.Integer(required=True)
    kind = ma.fields.Enum(Kind, by_value=True, required=True)
    title = ma.fields.String(required=True)
    description = ma.fields.String(required=True)
    status = ma.fields.Enum(WorkStatus, by_value=True, required=True)
    priority = ma.fields.Enum(Priority, by_value=True, required=True)
    due_date = ma.fields.Date(required=True, allow_none=True)
    position = ma.fields.Integer(
        required=True, metadata={"description": "Place in the column; the lowest number is on top."}
    )
    reporter_id = ma.fields.Integer(required=True, allow_none=True)
    created_at = ma.fields.AwareDateTime(format="iso", required=True)
    updated_at = ma.fields.AwareDateTime(format="iso", required=True)


class WorkItemQuery(QueryOfPage):
    """Filters of the lists."""

    status = ma.fields.Enum(WorkStatus, by_value=True)
    priority = ma.fields.Enum(Priority, by_value=True)
    reporter_id = ma.fields.Integer(validate=validate.Range(1, MAX_ID))
    due_before = ma.fields.Date(metadata={"description": "Due before this day, and not done."})
    text = ma.fields.String(
        validate=[validate.Length(1, 100), check_control_characters],
        metadata={"description": "Text in the title or the description, or the id."},
    )


class DeletionQuery(Schema):
    """What to do with the parts of a deleted item."""

    parts = ma.fields.Enum(
        Parts,
        by_value=True,
        metadata={"description": "Required if the item has parts: delete them, or move them to `to_id`."},
    )
    to_id = ma.fields.Integer(
        validate=validate.Range(1, MAX_ID), metadata={"description": "With `move`: the new parent of the parts."}
    )


class CommentTextSchema(Schema):
    """A new comment. `@username` notifies a user by email."""

    text = ma.fields.String(
        required=True, validate=[validate.Length(1, MAX_COMMENT_CHARACTERS), check_control_characters]
    )


class CommentSchema(Schema):
    """A comment on an item."""

    id = ma.fields.Integer(required=True)
    author_id = ma.fields.Integer(required=True, allow_none=True)
    text = ma.fields.String(required=True)
    created_at = ma.fields.AwareDateTime(format="iso", required=True)
    edited_at = ma.fields.AwareDateTime(format="iso", required=True, allow_none=True)


class ChangedSchema(Schema):
    """The number of changed items."""

    changed = ma.fields.Integer(required=True)


@dataclass(frozen=True)
class Schemas:
    """The schemas of one kind."""

    item: type[Schema]
    new: type[Schema]
    changes: type[Schema]
    bulk: type[Schema]
    query: type[QueryOfPage]


def schemas_of(kind: Kind) -> Schemas:
    """Return the schemas of a kind: the common fields, and its names for the responsible person and the parent."""
    name, people = kind.value.capitalize(), f"{kind.responsible}_id"
    responsible = (
        f"The {kind.responsible}, or null. The {kind.responsible} and the reporter are notified of changes of status."
    )
    given = {people: id_field(responsible, attribute="responsible_id", allow_none=True)}
    shown: dict[str, Field] = {people: ma.fields.Integer(attribute="responsible_id", required=True, allow_none=True)}
    asked: dict[str, Field] = {people: _filter("responsible_id")}
    made: dict[str, Field] = {"title": _required_title()}
    if kind.parent:
        parent = f"{kind.parent}_id"
        given[parent] = id_field(f"The {kind.parent} that the {kind} is part of.", attribute="parent_id")
        made[parent] = id_field(f"The {kind.parent} that the {kind} is part of.", attribute="parent_id", required=True)
        shown[parent] = ma.fields.Integer(attribute="parent_id", required=True)
        asked[parent] = _filter("parent_id")
    fields = type(f"{name}Fields", (WorkItemFields,), dict(given))
    changes = type(f"{name}ChangesSchema", (fields,), {"__doc__": "Changes; absent fields keep their values."})
    return Schemas(
        item=type(f"{name}Schema", (WorkItemSchema,), shown),
        new=type(f"New{name}Schema", (fields,), made),
        changes=changes,
        bulk=type(f"{name}BulkSchema", (Schema,), _bulk_fields(kind, people)),
        query=type(f"{name}Query", (WorkItemQuery,), asked),
    )


def _bulk_fields(kind: Kind, people: str) -> dict[str, Field]:
    values: dict[str, Field] = {
        "status": ma.fields.Enum(WorkStatus, by_value=True),
        "priority": ma.fields.Enum(Priority, by_value=True),
        "due_date": ma.fields.Date(allow_none=True),
        people: id_field(f"The {kind.responsible}, or null.", attribute="responsible_id", allow_none=True),
    }
    changes = type(f"{kind.value.capitalize()}BulkChangesSchema", (Schema,), dict(values))
    ids = ma.fields.List(
        ma.fields.Integer(strict=True, validate=validate.Range(1, MAX_ID)),
        required=True,
        validate=validate.Length(1, MAX_BULK_ITEMS),
    )
    return {"ids": ids, "changes": ma.fields.Nested(changes, required=True)}


def _required_title() -> Field:
    return ma.fields.String(
        required=True, validate=[validate.Length(1, MAX_TITLE_CHARACTERS), check_control_characters]
    )


def _filter(attribute: str) -> Field:
    return ma.fields.Integer(attribute=attribute, validate=validate.Range(1, MAX_ID))
