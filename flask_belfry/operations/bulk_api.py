"""The API of bulk operations: its endpoints and their schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import marshmallow as ma
from marshmallow import validate

from flask_belfry.core.clock import utc_now
from flask_belfry.db import commit_and_keep
from flask_belfry.operations import bulk
from flask_belfry.operations.endpoints import Endpoints
from flask_belfry.operations.fields import job_fields, operation_detail_fields, operation_fields
from flask_belfry.operations.models import BulkKind, BulkState
from flask_belfry.operations.schemas import JobFilterSchema, JobSchema
from flask_belfry.operations.search import parse
from flask_belfry.outbox import JobState
from flask_belfry.schemas import QueryOfPage, Schema, page_response, page_schema

VIEW, CHANGE = "jobs.view", "jobs.change"
OPERATIONS, OPERATION = "/jobs/operations", "/jobs/operations/<uuid:operation_id>"
_endpoints = Endpoints()
endpoint, add_endpoints = _endpoints.declare, _endpoints.add_to


def _number(description: str, **options: Any) -> ma.fields.Integer:
    return ma.fields.Integer(required=True, metadata={"description": description}, **options)


def _shown(description: str, **metadata: Any) -> ma.fields.String:
    return ma.fields.String(required=True, allow_none=True, metadata={"description": description, **metadata})


class SelectionSchema(JobFilterSchema):
    """What is done to which jobs: those with these ids, or those that match the search and the filters."""

    kind = ma.fields.Enum(BulkKind, by_value=True, required=True)
    state = ma.fields.Enum(
        JobState,
        by_value=True,
        metadata={"description": "Absent: failed jobs are retried, and all that are not finalized are cancelled."},
    )
    ids = ma.fields.List(
        ma.fields.UUID(),
        validate=validate.Length(1, bulk.MAX_SELECTED),
        metadata={"description": "These jobs. Not with a search or a filter."},
    )

    @ma.validates_schema
    def validate_selection(self, values: dict[str, Any], **_: Any) -> None:
        """Require ids or filters: a body without any is more often a mistake than a choice."""
        if ("ids" in values) == bool(values.keys() - {"kind", "ids", "canary", "per_second"}):
            raise ma.ValidationError("Give either ids or at least one filter.")


class Numbers(Schema):
    """How the jobs of an operation are changed."""

    canary = ma.fields.Integer(
        strict=True,
        load_default=None,
        allow_none=True,
        validate=validate.Range(1, bulk.MAX_CANARY),
        metadata={
            "description": "How many are retried first. The rest follows when none of them has failed again. null: all."
        },
    )
    per_second = ma.fields.Float(
        load_default=None,
        allow_none=True,
        validate=validate.Range(bulk.MIN_PER_SECOND, bulk.MAX_PER_SECOND),
        metadata={"description": "How many are changed in a second. null: as fast as possible."},
    )


class NewOperationSchema(SelectionSchema, Numbers):
    """A new bulk operation."""


class OperationPreviewSchema(Schema):
    """The jobs that an operation would change."""

    jobs = _number("How many they are, counted up to 10,000.")
    is_capped = ma.fields.Boolean(required=True, metadata={"description": "Whether there may be more."})
    newest = ma.fields.List(ma.fields.Nested(JobSchema), required=True)


class OperationSchema(Schema):
    """A bulk operation: a job changes all jobs that matched when it was begun, page by page."""

    id = ma.fields.UUID(required=True)
    kind = ma.fields.String(required=True, validate=validate.OneOf([kind.value for kind in BulkKind]))
    state = ma.fields.String(
        required=True,
        validate=validate.OneOf([state.value for state in BulkState]),
        metadata={"description": "`stopped`: by itself, for the `reason`. `cancelled`: by a user."},
    )
    query = ma.fields.String(required=True, metadata={"description": "The search, or what was selected in words."})
    group_id = _shown("The group of failures whose jobs it retries.", format="uuid")
    canary = _number("How many it retries first.", allow_none=True)
    per_second = ma.fields.Float(required=True, allow_none=True)
    jobs = _number("How many jobs matched when it was begun.")
    done = _number("How many of them it has come to.")
    changed = _number("How many of these it has changed. The others could not be changed any more.")
    failed_again = _number("How many of these have failed again.")
    reason = _shown("Why it stopped by itself.")
    next_page_at = _shown("When it continues.", format="date-time")
    school = _number("null: of the system, or of all schools.", allow_none=True)
    user_id = _number("Who began it.", allow_none=True)
    undo_of_id = _shown("The operation that it undoes.", format="uuid")
    job_id = _shown("The job that does it.", format="uuid")
    created_at = ma.fields.String(required=True, metadata={"format": "date-time"})
    finished_at = _shown("When it ended.", format="date-time")


class OperationDetailSchema(OperationSchema):
    """A bulk operation with what has become of the jobs that it changed, the newest 10,000 of them."""

    live = _number("How many wait or run.")
    ended = _number("How many have ended since then.")
    can_undo = ma.fields.Boolean(required=True)


@endpoint("GET", OPERATIONS, VIEW, page_schema(OperationSchema), query=QueryOfPage)
def list_operations(query: dict[str, Any]) -> Mapping[str, Any]:
    """List bulk operations, newest first"""
    page = bulk.list_operations(**query)
    return {**page_response(page), "items": [operation_fields(operation) for operation in page.items]}


@endpoint("POST", OPERATIONS, CHANGE, OperationSchema, body=NewOperationSchema, status=202)
def begin_operation(values: dict[str, Any]) -> Mapping[str, Any]:
    """Begin to retry or to cancel all jobs that match a search, or selected ones"""
    text, ids = _selected(values)
    numbers = {"canary": values["canary"], "per_second": values["per_second"]}
    operation = bulk.begin(values["kind"], text, ids=ids, **numbers)
    commit_and_keep()
    return operation_fields(operation)


@endpoint("GET", f"{OPERATIONS}/preview", CHANGE, OperationPreviewSchema, query=SelectionSchema)
def preview_operation(query: dict[str, Any]) -> Mapping[str, Any]:
    """Get how many jobs a bulk operation would change, and the newest of them"""
    found = bulk.preview(query["kind"], *_selected(query))
    newest = [job_fields(record) for record in found.sample]
    return {"jobs": found.count, "is_capped": found.is_capped, "newest": newest}


@endpoint("GET", OPERATION, VIEW, OperationDetailSchema)
def get_operation(operation_id: UUID) -> Mapping[str, Any]:
    """Get a bulk operation with its progress and what has become of the jobs that it changed"""
    return operation_detail_fields(bulk.get_operation(str(operation_id)))


@endpoint("POST", f"{OPERATION}/stop", CHANGE, OperationSchema, errors={409: "It has already ended."})
def stop_operation(operation_id: UUID) -> Mapping[str, Any]:
    """Stop a bulk operation before its next page; what it has changed stays changed"""
    operation = bulk.cancel(str(operation_id))
    commit_and_keep()
    return operation_fields(operation)


@endpoint(
    "POST",
    f"{OPERATION}/undo",
    CHANGE,
    OperationSchema,
    errors={409: "It runs, was undone, or nothing of it can be undone."},
    status=202,
)
def undo_operation(operation_id: UUID) -> Mapping[str, Any]:
    """Begin the reverse of a bulk operation: cancel what it retried and has not started, or retry what it cancelled"""
    reverse = bulk.undo(str(operation_id))
    commit_and_keep()
    return operation_fields(reverse)


def _selected(values: Mapping[str, Any]) -> tuple[str, list[str] | None]:
    """Return the search, or its description and the ids."""
    if "ids" in values:
        ids = [str(id) for id in values["ids"]]
        return bulk.selection_in_words(ids), ids
    query = parse(values.get("q", ""), values, now=utc_now())
    bulk.check_search(query)
    return str(query), None
