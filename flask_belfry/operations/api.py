"""The API of jobs, batches, queues, pauses and schedules.

The host authorizes `jobs.view`, `jobs.change` (retry, cancel and run now), `queues.change` (pause and resume),
`schedule.view` and `schedule.change`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from flask import request

from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import StaleError
from flask_belfry.db import commit_and_keep, db
from flask_belfry.operations import batches, bulk, custom_schedules, periodic, queues, services
from flask_belfry.operations.custom_schedules import Draft
from flask_belfry.operations.endpoints import Endpoints
from flask_belfry.operations.fields import (
    attempt_fields,
    batches_fields,
    job_fields,
    log_fields,
    pause_fields,
    predecessor_fields,
    queue_fields,
    schedule_fields,
)
from flask_belfry.operations.models import BulkKind, BulkOperation
from flask_belfry.operations.schemas import (
    BatchQuery,
    BatchSchema,
    CancelledManySchema,
    CancelledSchema,
    CancelManySchema,
    ChangedScheduleSchema,
    IfMatchSchema,
    JobDetailSchema,
    JobQuery,
    JobSchema,
    JobsSchema,
    NewPauseSchema,
    NewScheduleSchema,
    PauseQuery,
    PauseSchema,
    PausesSchema,
    QueuesSchema,
    RetriedManySchema,
    RetriedSchema,
    RetryBatchSchema,
    RetryManySchema,
    ScheduleRunSchema,
    ScheduleSchema,
    SchedulesSchema,
)
from flask_belfry.operations.search import Query, parse
from flask_belfry.outbox import CustomSchedule, JobRecord, JobStateError
from flask_belfry.outbox.models import PauseKind
from flask_belfry.scheduler.custom import CHANGE as CHANGE_SCHEDULE
from flask_belfry.scheduler.custom import entry_of
from flask_belfry.schemas import page_response, page_schema

VIEW, CHANGE, PAUSE = "jobs.view", "jobs.change", "queues.change"
VIEW_SCHEDULE = "schedule.view"
MANY = "They may be more than 1,000: a bulk operation changes them, which `GET /jobs/operations/{id}` shows."
JOB, BATCH = "/jobs/<uuid:job_id>", "/batches/<uuid:batch_id>"
SCHEDULE = "/jobs/schedule/<name>"
# What was changed, and the status.
Changed = tuple[Mapping[str, Any], int]
STALE = "The schedule has another version than `If-Match`."

_endpoints = Endpoints()
endpoint, add_endpoints = _endpoints.declare, _endpoints.add_to


# ── Jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@endpoint("GET", "/jobs", VIEW, JobsSchema, query=JobQuery)
def list_jobs(query: dict[str, Any]) -> Mapping[str, Any]:
    """List jobs, newest first"""
    page = services.list_jobs(_search(query), limit=query["limit"], cursor=query["cursor"])
    return {
        **page_response(page),
        "items": [job_fields(record) for record in page.items],
        "searched_to": page.searched_to.isoformat() if page.searched_to else None,
    }


@endpoint("GET", JOB, VIEW, JobDetailSchema)
def get_job(job_id: UUID) -> Mapping[str, Any]:
    """Get a job with its attempts and log lines"""
    record = services.get_job(str(job_id))
    return {
        **job_fields(record),
        "attempts": [attempt_fields(attempt) for attempt in services.attempts_of(record)],
        "logs": [log_fields(log) for log in services.logs_of(record)],
        "after": predecessor_fields(record),
        "successors": services.successors_of(record),
    }


@endpoint(
    "POST", f"{JOB}/retry", CHANGE, JobSchema, errors={409: "Its state, or that of another job, does not allow it."}
)
def retry_job(job_id: UUID) -> Mapping[str, Any]:
    """Retry a failed or cancelled job"""
    record = services.get_job(str(job_id))
    if not services.retry_jobs([record.id]):
        raise JobStateError("Only failed and cancelled jobs can be retried, and only after a completed predecessor.")
    return _changed(record)


@endpoint("POST", f"{JOB}/cancel", CHANGE, JobSchema, errors={409: "It has already finished."})
def cancel_job(job_id: UUID) -> Mapping[str, Any]:
    """Cancel a waiting job, or request a running one to stop"""
    record = services.get_job(str(job_id))
    if not any(services.cancel_jobs([record.id])):
        raise JobStateError("The job has already finished.")
    return _changed(record)


@endpoint("POST", f"{JOB}/run", CHANGE, JobSchema, errors={409: "It does not wait for a time."})
def run_job(job_id: UUID) -> Mapping[str, Any]:
    """Run a scheduled job, or one that waits for its next attempt, now"""
    record = services.get_job(str(job_id))
    if not services.run_jobs_now([record.id]):
        raise JobStateError(services.NOT_TIMED)
    return _changed(record)


@endpoint(
    "POST",
    "/jobs/retry",
    CHANGE,
    RetriedManySchema,
    body=RetryManySchema,
    errors={409: "Another live job has the unique key of one of the jobs. None is retried."},
    accepted=MANY,
)
def retry_jobs(filters: dict[str, Any]) -> Changed:
    """Retry the failed or cancelled jobs that match a filter; many by a bulk operation"""
    found = bulk.begin_or_find(BulkKind.RETRY, _search(filters))
    if isinstance(found, BulkOperation):
        return _begun(found, retried=0)
    retried = services.retry_jobs(found)
    db.session.commit()
    return {"retried": len(retried), "operation_id": None}, 200


@endpoint("POST", "/jobs/cancel", CHANGE, CancelledManySchema, body=CancelManySchema, accepted=MANY)
def cancel_jobs(filters: dict[str, Any]) -> Changed:
    """Cancel the jobs that match a filter; many by a bulk operation"""
    found = bulk.begin_or_find(BulkKind.CANCEL, _search(filters))
    if isinstance(found, BulkOperation):
        return _begun(found, cancelled=0, stopping=0)
    cancelled, stopping = services.cancel_jobs(found)
    db.session.commit()
    return {"cancelled": len(cancelled), "stopping": len(stopping), "operation_id": None}, 200


def _search(given: Mapping[str, Any]) -> Query:
    return parse(given.get("q", ""), given, now=utc_now())


def _begun(operation: BulkOperation, **counts: int) -> Changed:
    commit_and_keep()
    return {**counts, "operation_id": operation.id}, 202


def _changed(record: JobRecord) -> Mapping[str, Any]:
    """Commit, and return the job as it was before workers see the change."""
    db.session.refresh(record)
    commit_and_keep()
    return job_fields(record)


# ── Batches ──────────────────────────────────────────────────────────────────────────────────────────────────────


@endpoint("GET", "/batches", VIEW, page_schema(BatchSchema), query=BatchQuery)
def list_batches(query: dict[str, Any]) -> Mapping[str, Any]:
    """List batches, newest first"""
    page = batches.list_batches(is_open=query.get("open"), limit=query["limit"], cursor=query["cursor"])
    return {**page_response(page), "items": batches_fields(page.items)}


@endpoint("GET", BATCH, VIEW, BatchSchema)
def get_batch(batch_id: UUID) -> Mapping[str, Any]:
    """Get a batch with the number of its jobs in each state"""
    return batches_fields([batches.get_batch(str(batch_id))])[0]


@endpoint("POST", f"{BATCH}/cancel", CHANGE, CancelledSchema, errors={409: "It is finished."})
def cancel_batch(batch_id: UUID) -> Mapping[str, Any]:
    """Cancel the jobs of a batch that have not ended, and refuse further ones"""
    cancelled, stopping = batches.cancel_batch(batches.get_batch(str(batch_id)))
    db.session.commit()
    return {"cancelled": len(cancelled), "stopping": len(stopping)}


@endpoint(
    "POST",
    f"{BATCH}/retry",
    CHANGE,
    RetriedSchema,
    body=RetryBatchSchema,
    errors={409: "Another live job has the unique key of one of the jobs. None is retried."},
)
def retry_batch(options: dict[str, Any], batch_id: UUID) -> Mapping[str, Any]:
    """Retry the failed jobs of a batch, which is open again until they have ended"""
    retried = batches.retry_batch(batches.get_batch(str(batch_id)), cancelled=options["cancelled"])
    db.session.commit()
    return {"retried": len(retried)}


# ── Queues and pauses ────────────────────────────────────────────────────────────────────────────────────────────


@endpoint("GET", "/jobs/queues", VIEW, QueuesSchema)
def list_queues() -> Mapping[str, Any]:
    """List all queues with the number of their jobs and their pauses"""
    active = queues.active_pauses()
    paused = dict(zip([(pause.kind, pause.name) for pause in active], pause_fields(active), strict=True))
    return {
        "items": [queue_fields(queue, paused.get((PauseKind.QUEUE, queue.name))) for queue in queues.queues(active)]
    }


@endpoint("GET", "/jobs/pauses", VIEW, PausesSchema)
def list_pauses() -> Mapping[str, Any]:
    """List the pauses of queues, job names and limit keys"""
    return {"items": pause_fields(queues.active_pauses())}


@endpoint("POST", "/jobs/pauses", PAUSE, PauseSchema, body=NewPauseSchema)
def pause(values: dict[str, Any]) -> Mapping[str, Any]:
    """Pause a queue, a job name or a limit key, or change its pause; running jobs continue"""
    seconds = values.pop("duration_seconds")
    paused = queues.pause(**values, duration=timedelta(seconds=seconds) if seconds else None)
    return pause_fields([paused])[0]


@endpoint("DELETE", "/jobs/pauses", PAUSE, None, query=PauseQuery, errors={404: "Nothing is paused by this name."})
def resume(query: dict[str, Any]) -> None:
    """Resume a queue, a job name or a limit key"""
    queues.resume(**query)


# ── Schedules ────────────────────────────────────────────────────────────────────────────────────────────────────


@endpoint("GET", "/jobs/schedule", VIEW_SCHEDULE, SchedulesSchema)
def list_schedules() -> Mapping[str, Any]:
    """List the periodic jobs of the code and those that users made"""
    return {"items": [schedule_fields(entry) for entry in periodic.entries()]}


@endpoint(
    "POST",
    "/jobs/schedule",
    CHANGE_SCHEDULE,
    ScheduleSchema,
    body=NewScheduleSchema,
    errors={409: "There are too many schedules that users made."},
)
def create_schedule(values: dict[str, Any]) -> Mapping[str, Any]:
    """Create a schedule of the user, whose name becomes `custom.NAME`"""
    return _schedule(custom_schedules.create(Draft(**values)).name)


@endpoint("GET", SCHEDULE, VIEW_SCHEDULE, ScheduleSchema)
def get_schedule(name: str) -> Mapping[str, Any]:
    """Get a periodic job with its next five run times"""
    return _schedule(name)


@endpoint(
    "PATCH",
    SCHEDULE,
    CHANGE_SCHEDULE,
    ScheduleSchema,
    body=ChangedScheduleSchema,
    headers=IfMatchSchema,
    errors={412: STALE},
)
def change_schedule(values: dict[str, Any], headers: dict[str, Any], name: str) -> Mapping[str, Any]:
    """Change a schedule that a user made; the user of the token becomes its owner"""
    draft = custom_schedules.draft_of(_locked_schedule(name))
    if not values.keys().isdisjoint(("cron", "every_seconds")):
        draft = replace(draft, cron=None, every_seconds=None)
    custom_schedules.update(name, replace(draft, **values))
    return _schedule(name)


@endpoint("DELETE", SCHEDULE, CHANGE_SCHEDULE, None, headers=IfMatchSchema, errors={412: STALE})
def delete_schedule(headers: dict[str, Any], name: str) -> None:
    """Delete a schedule that a user made; its jobs are kept"""
    _locked_schedule(name)
    custom_schedules.delete(name)


@endpoint("POST", f"{SCHEDULE}/pause", CHANGE_SCHEDULE, ScheduleSchema)
def pause_schedule(name: str) -> Mapping[str, Any]:
    """Pause a periodic job: its run times pass without a job"""
    periodic.pause(name)
    return _schedule(name)


@endpoint("POST", f"{SCHEDULE}/resume", CHANGE_SCHEDULE, ScheduleSchema, errors={409: "It cannot run."})
def resume_schedule(name: str) -> Mapping[str, Any]:
    """Resume a periodic job, from its next run time"""
    periodic.resume(name)
    return _schedule(name)


@endpoint("POST", f"{SCHEDULE}/run", CHANGE_SCHEDULE, ScheduleRunSchema, errors={409: "It cannot run."})
def run_schedule(name: str) -> Mapping[str, Any]:
    """Enqueue the job of a periodic job now, or get the one that has not ended"""
    return {"job_id": periodic.run_now(name)}


def _locked_schedule(name: str) -> CustomSchedule:
    """Return the row, locked until the commit. Raise StaleError when its version is not in `If-Match`."""
    row = custom_schedules.lock_schedule(name)
    version = custom_schedules.version_of(entry_of(row))
    if "If-Match" in request.headers and not request.if_match.contains(version):
        raise StaleError("The schedule has changed since you read it: read it again and send the new version.")
    return row


def _schedule(name: str) -> Mapping[str, Any]:
    return schedule_fields(periodic.get_entry(name))
