"""The API of groups of failures: its endpoints and their schemas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import marshmallow as ma
from marshmallow import validate

from flask_belfry.db import commit_and_keep
from flask_belfry.operations import bulk, failures
from flask_belfry.operations.endpoints import Endpoints
from flask_belfry.operations.failures import FILTERS, OPEN_ONLY, Verb
from flask_belfry.operations.fields import failure_attempt_fields, failure_fields
from flask_belfry.operations.models import BulkState
from flask_belfry.operations.schemas import MAX_TEXT_CHARACTERS, AttemptSchema
from flask_belfry.schemas import QueryOfPage, Schema, check_control_characters, page_response, page_schema
from flask_belfry.statistics import FailureGroup, FailureState

VIEW, CHANGE = "jobs.view", "failures.change"
GROUP = "/jobs/failures/<uuid:group_id>"
_endpoints = Endpoints()
endpoint, add_endpoints = _endpoints.declare, _endpoints.add_to


def _number(description: str) -> ma.fields.Integer:
    return ma.fields.Integer(required=True, metadata={"description": description})


def _shown(description: str, **metadata: Any) -> ma.fields.String:
    return ma.fields.String(required=True, allow_none=True, metadata={"description": description, **metadata})


class FailureQuery(QueryOfPage):
    """Filters of the list."""

    state = ma.fields.String(
        load_default=OPEN_ONLY,
        validate=validate.OneOf(FILTERS),
        metadata={"description": "`open`: those that are new, regressed or seen."},
    )
    text = ma.fields.String(
        load_default=None,
        validate=[validate.Length(1, MAX_TEXT_CHARACTERS), check_control_characters],
        metadata={"description": "Text in the job, the error, its message or its frame, or the fingerprint."},
    )


class FailureGroupSchema(Schema):
    """The failed attempts with the same cause: of one job, with one type of error, raised in one frame of our code."""

    id = ma.fields.UUID(required=True)
    state = ma.fields.String(required=True, validate=validate.OneOf([state.value for state in FailureState]))
    job = ma.fields.String(required=True)
    error_type = ma.fields.String(required=True)
    error = _shown("The message of the latest attempt.")
    frame = _shown("The innermost frame of our code.")
    fingerprint = ma.fields.String(required=True)
    school = ma.fields.Integer(required=True, allow_none=True, metadata={"description": "null: of the system."})
    failures = _number("How many attempts have failed in all.")
    failures_1h = _number("How many in the last hour.")
    failures_24h = _number("How many in the last 24 hours.")
    failures_7d = _number("How many in the last 7 days.")
    failed_jobs = _number("Jobs that have failed finally; at most 1,000 are counted.")
    waiting_jobs = _number("Jobs that wait for another attempt; at most 1,000 are counted.")
    first_seen_at = ma.fields.String(required=True, metadata={"format": "date-time"})
    last_seen_at = ma.fields.String(required=True, metadata={"format": "date-time"})
    first_release = _shown("The release of the first failure.")
    last_release = _shown("The release of the latest failure.")
    job_id = ma.fields.UUID(required=True, metadata={"description": "The job of the latest failure."})
    changed_at = _shown("When a user changed the state last.", format="date-time")
    user_id = ma.fields.Integer(required=True, allow_none=True, metadata={"description": "That user."})


class FailureAttemptSchema(AttemptSchema):
    """A failed attempt with its traceback."""

    traceback = _shown("Without the values of variables.")


class FailureDetailSchema(FailureGroupSchema):
    """A group with its latest failure."""

    attempt = ma.fields.Nested(
        FailureAttemptSchema, required=True, allow_none=True, metadata={"description": "null: its job was pruned."}
    )


class RetryFailureSchema(Schema):
    """How the failed jobs of a group are retried."""

    canary = ma.fields.Integer(
        strict=True,
        load_default=bulk.CANARY,
        allow_none=True,
        validate=validate.Range(1, bulk.MAX_CANARY),
        metadata={
            "description": "How many are retried first. The rest follows when none of them has failed again. null: all."
        },
    )
    per_second = ma.fields.Float(
        load_default=bulk.PER_SECOND,
        allow_none=True,
        validate=validate.Range(bulk.MIN_PER_SECOND, bulk.MAX_PER_SECOND),
        metadata={"description": "How many are retried in a second. null: as fast as possible."},
    )


class FailureRetrySchema(Schema):
    """A bulk operation that has begun."""

    operation_id = ma.fields.UUID(required=True)
    state = ma.fields.String(required=True, validate=validate.OneOf([state.value for state in BulkState]))
    jobs = _number("How many jobs it retries.")


@endpoint("GET", "/jobs/failures", VIEW, page_schema(FailureGroupSchema), query=FailureQuery)
def list_failures(query: dict[str, Any]) -> Mapping[str, Any]:
    """List groups of failures, those that failed last first"""
    page = failures.list_groups(**query)
    return {**page_response(page), "items": failure_fields(page.items)}


@endpoint("GET", GROUP, VIEW, FailureDetailSchema)
def get_failure(group_id: UUID) -> Mapping[str, Any]:
    """Get a group of failures with its latest failure"""
    group = failures.get_group(str(group_id))
    return {**_fields([group]), "attempt": failure_attempt_fields(failures.latest_trace(group))}


@endpoint("POST", f"{GROUP}/see", CHANGE, FailureGroupSchema, errors={409: "It is not new or regressed."})
def see_failure(group_id: UUID) -> Mapping[str, Any]:
    """Mark a group of failures as seen"""
    return _changed(group_id, Verb.SEE)


@endpoint("POST", f"{GROUP}/resolve", CHANGE, FailureGroupSchema, errors={409: "It is already resolved."})
def resolve_failure(group_id: UUID) -> Mapping[str, Any]:
    """Resolve a group of failures: when it fails again, it has regressed"""
    return _changed(group_id, Verb.RESOLVE)


@endpoint("POST", f"{GROUP}/ignore", CHANGE, FailureGroupSchema, errors={409: "It is already ignored."})
def ignore_failure(group_id: UUID) -> Mapping[str, Any]:
    """Ignore a group of failures, also when it fails again"""
    return _changed(group_id, Verb.IGNORE)


@endpoint("POST", f"{GROUP}/reopen", CHANGE, FailureGroupSchema, errors={409: "It is open."})
def reopen_failure(group_id: UUID) -> Mapping[str, Any]:
    """Reopen an ignored or resolved group of failures"""
    return _changed(group_id, Verb.REOPEN)


@endpoint("POST", f"{GROUP}/retry", CHANGE, FailureRetrySchema, body=RetryFailureSchema)
def retry_failure(options: dict[str, Any], group_id: UUID) -> Mapping[str, Any]:
    """Retry the failed jobs of a group: some first, then the rest"""
    operation = failures.retry(str(group_id), **options)
    commit_and_keep()
    return {"operation_id": operation.id, "state": operation.state.value, "jobs": operation.total}


def _changed(group_id: UUID, verb: Verb) -> Mapping[str, Any]:
    group = failures.change(str(group_id), verb)
    commit_and_keep()
    return _fields([group])


def _fields(groups: Sequence[FailureGroup]) -> Mapping[str, Any]:
    (fields,) = failure_fields(groups)
    return fields
