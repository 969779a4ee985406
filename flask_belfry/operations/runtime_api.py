"""The API of what runs: workers and running jobs; and the figures of jobs.

The host authorizes `jobs.view`, `workers.view` and `workers.change`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import marshmallow as ma
from marshmallow import validate

from flask_belfry.core.clock import utc_now
from flask_belfry.operations import workers
from flask_belfry.operations.endpoints import Endpoints
from flask_belfry.operations.fields import active_fields, worker_fields
from flask_belfry.schemas import Schema
from flask_belfry.statistics import reading

VIEW, VIEW_WORKERS, STOP_WORKERS = "jobs.view", "workers.view", "workers.change"

_endpoints = Endpoints()
endpoint, add_endpoints = _endpoints.declare, _endpoints.add_to


def _time(description: str = "") -> ma.fields.String:
    metadata = {"format": "date-time"} | ({"description": description} if description else {})
    return ma.fields.String(required=True, allow_none=True, metadata=metadata)


def _number(description: str, **options: Any) -> ma.fields.Integer:
    return ma.fields.Integer(required=True, metadata={"description": description}, **options)


def _seconds() -> ma.fields.Float:
    return ma.fields.Float(required=True, allow_none=True)


class ActiveJobSchema(Schema):
    """A job that runs."""

    id = ma.fields.UUID(required=True)
    name = ma.fields.String(required=True)
    queue = ma.fields.String(required=True)
    started_at = _time()
    worker = ma.fields.String(required=True, allow_none=True)


class ActiveJobsSchema(Schema):
    """The jobs that run."""

    items = ma.fields.List(ma.fields.Nested(ActiveJobSchema), required=True)


class WorkerSchema(Schema):
    """A process of the job system."""

    name = ma.fields.String(required=True)
    kind = ma.fields.String(required=True, metadata={"description": "`light`, `heavy`, `scheduler` and others."})
    host = ma.fields.String(required=True)
    pid = _number("The process id on its host.")
    state = ma.fields.String(
        required=True,
        validate=validate.OneOf(["running", "stopping", "silent", "lost"]),
        metadata={"description": "`silent`: its last heartbeat is late. `lost`: its jobs run elsewhere."},
    )
    queues = ma.fields.List(ma.fields.String(), required=True)
    jobs = ma.fields.List(ma.fields.Nested(ActiveJobSchema), required=True, metadata={"description": "What it runs."})
    jobs_done = _number("How many jobs it has ended.")
    memory_bytes = _number("The memory that it uses.", allow_none=True)
    heartbeat_at = _time()
    started_at = _time()
    stop_requested_at = _time("When a user asked it to stop.")
    release = ma.fields.String(required=True, allow_none=True)


class WorkersSchema(Schema):
    """The processes that run, and those that were lost in the last ten minutes."""

    items = ma.fields.List(ma.fields.Nested(WorkerSchema), required=True)


class FiguresQuery(Schema):
    """The time of the figures."""

    span = ma.fields.String(
        load_default="1h", validate=validate.OneOf(list(reading.SPANS)), metadata={"description": "Until now."}
    )


class JobFiguresSchema(Schema):
    """The jobs of one name that ended in the span, with percentiles of their waiting and running times in seconds."""

    name = ma.fields.String(required=True)
    queue = ma.fields.String(required=True)
    completed = _number("Completed jobs.")
    failed = _number("Failed jobs.")
    cancelled = _number("Cancelled jobs.")
    attempts = _number("Failed attempts.")
    wait_p50, wait_p95, wait_p99 = _seconds(), _seconds(), _seconds()
    run_p50, run_p95, run_p99 = _seconds(), _seconds(), _seconds()


class FiguresSchema(Schema):
    """The figures of all jobs."""

    span = ma.fields.String(required=True)
    since = _time()
    items = ma.fields.List(ma.fields.Nested(JobFiguresSchema), required=True)


@endpoint("GET", "/jobs/active", VIEW, ActiveJobsSchema)
def list_active_jobs() -> Mapping[str, Any]:
    """List the jobs that run now, the oldest first, at most 500"""
    return {"items": [active_fields(record) for record in workers.running_jobs()]}


@endpoint("GET", "/jobs/stats", VIEW, FiguresSchema, query=FiguresQuery)
def get_job_figures(query: dict[str, Any]) -> Mapping[str, Any]:
    """Get how many jobs of each name ended in the last hour, day or week, and how long they waited and ran"""
    since = utc_now() - reading.SPANS[query["span"]]
    figures = reading.job_figures(since)
    return {"span": query["span"], "since": since.isoformat(), "items": [asdict(each) for each in figures]}


@endpoint("GET", "/jobs/workers", VIEW_WORKERS, WorkersSchema)
def list_workers() -> Mapping[str, Any]:
    """List workers and schedulers with what they run"""
    return {"items": [worker_fields(worker) for worker in workers.workers()]}


@endpoint(
    "POST",
    "/jobs/workers/<name>/stop",
    STOP_WORKERS,
    None,
    errors={404: "No such process runs.", 409: "It is not a worker."},
)
def stop_worker(name: str) -> None:
    """Stop a worker when its jobs have ended; `flask jobs worker` starts another in its place"""
    workers.stop(name)
