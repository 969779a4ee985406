"""API of work items: epics, stories and tasks have the same endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import url_for

from app.accounts import acting_user
from app.api.web import ApiBlueprint, QueryOfPage, check_stale, page_response, page_schema, versioned
from app.work_items import comments, queries, services
from app.work_items.models import MAX_ITEM_BYTES, Kind, WorkItem, WorkItemComment
from app.work_items.schemas import ChangedSchema, CommentSchema, CommentTextSchema, DeletionQuery, schemas_of
from flask_belfry.core.access import accept_body
from flask_belfry.db import commit_and_keep, db

# One class for all kinds: the OpenAPI document names each schema once.
CommentPageSchema = page_schema(CommentSchema)


def _blueprint_of(kind: Kind) -> ApiBlueprint:
    """Return the endpoints of one kind of items."""
    schemas, plural = schemas_of(kind), kind.plural
    blueprint = ApiBlueprint(plural, __name__, description=f"{plural.capitalize()} of the school", area="work_items")
    one = f"/{plural}/<id:item_id>"

    @blueprint.route(f"/{plural}")
    @blueprint.arguments(schemas.query, location="query")
    @blueprint.response(200, page_schema(schemas.item))
    def list_items(query: dict[str, Any]) -> Mapping[str, Any]:
        """List visible items, newest first"""
        limit, cursor = query.pop("limit"), query.pop("cursor")
        filters = queries.Filters(kind=kind, **query)
        return page_response(queries.page(acting_user(), filters, limit=limit, cursor=cursor))

    @blueprint.route(f"/{plural}", methods=["POST"])
    @versioned
    @blueprint.arguments(schemas.new)
    @blueprint.response(201, schemas.item)
    @accept_body(MAX_ITEM_BYTES)
    def create_item(values: dict[str, Any]) -> tuple[WorkItem, int, dict[str, str]]:
        """Create an item"""
        item = services.create(acting_user(), kind, **values)
        commit_and_keep()
        return item, 201, {"Location": url_for(f"{blueprint.name}.get_item", item_id=item.id)}

    @blueprint.route(f"/{plural}/bulk", methods=["POST"])
    @blueprint.arguments(schemas.bulk)
    @blueprint.response(200, ChangedSchema)
    @blueprint.alt_response(404, description="One of the items does not exist; no item is changed.")
    def change_items(given: dict[str, Any]) -> Mapping[str, int]:
        """Make the same changes to many items, all or none"""
        items = queries.lock_many(acting_user(), given["ids"], kind=kind)
        services.change_many(acting_user(), items, given["changes"])
        db.session.commit()
        return {"changed": len(items)}

    @blueprint.route(one)
    @versioned
    @blueprint.response(200, schemas.item)
    def get_item(item_id: int) -> WorkItem:
        """Get an item"""
        return queries.get(acting_user(), item_id, kind=kind)

    @blueprint.route(one, methods=["PATCH"])
    @versioned
    @blueprint.arguments(schemas.changes)
    @blueprint.response(200, schemas.item)
    @accept_body(MAX_ITEM_BYTES)
    def change_item(changes: dict[str, Any], item_id: int) -> WorkItem:
        """Change fields and status of an item, all or nothing"""
        item = lock(item_id)
        services.change(acting_user(), item, changes)
        commit_and_keep()
        return item

    @blueprint.route(one, methods=["DELETE"])
    @versioned
    @blueprint.arguments(DeletionQuery, location="query")
    @blueprint.response(204)
    @blueprint.alt_response(409, description="The item has parts: delete or move them.")
    def delete_item(query: dict[str, Any], item_id: int) -> None:
        """Delete an item; its history is kept"""
        services.delete(acting_user(), lock(item_id), **query)
        db.session.commit()

    def lock(item_id: int) -> WorkItem:
        """Load the row of a write with its lock, and check `If-Match` on it."""
        item = queries.get(acting_user(), item_id, kind=kind, for_update=True)
        check_stale(schemas.item, item)
        return item

    _add_conversation(blueprint, kind, one)
    return blueprint


def _add_conversation(blueprint: ApiBlueprint, kind: Kind, one: str) -> None:
    @blueprint.route(f"{one}/comments")
    @blueprint.arguments(QueryOfPage, location="query")
    @blueprint.response(200, CommentPageSchema)
    def list_comments(query: dict[str, Any], item_id: int) -> Mapping[str, Any]:
        """List comments, oldest first"""
        item = queries.get(acting_user(), item_id, kind=kind)
        return page_response(queries.comments_of(item, **query))

    @blueprint.route(f"{one}/comments", methods=["POST"])
    @blueprint.arguments(CommentTextSchema)
    @blueprint.response(201, CommentSchema)
    def comment(given: dict[str, str], item_id: int) -> WorkItemComment:
        """Add a comment, and watch the item"""
        added = comments.comment(acting_user(), queries.get(acting_user(), item_id, kind=kind), given["text"])
        commit_and_keep()
        return added

    @blueprint.route(f"{one}/watch", methods=["PUT"])
    @blueprint.response(204)
    def watch(item_id: int) -> None:
        """Watch an item: get its changes of status by email"""
        comments.watch(acting_user(), queries.get(acting_user(), item_id, kind=kind))
        db.session.commit()

    @blueprint.route(f"{one}/watch", methods=["DELETE"])
    @blueprint.response(204)
    def unwatch(item_id: int) -> None:
        """Stop watching an item"""
        comments.unwatch(acting_user(), queries.get(acting_user(), item_id, kind=kind))
        db.session.commit()


# Once for all applications: marshmallow keeps every schema class permanently.
blueprints = [_blueprint_of(kind) for kind in Kind]
