"""The routes of workers, of the jobs that run, and of the figures of jobs."""

from __future__ import annotations

from app.accounts import User
from flask_belfry.db import db
from flask_belfry.outbox import WorkerProcess
from tests.tenancy import ADMIN, STAFF, Route, many

WORKER = {"name": "a-worker"}

ROUTES: dict[tuple[str, str], Route] = {
    ("job_workers.list_", "GET"): many(ADMIN, "/jobs/workers"),
    ("job_workers.list_live", "GET"): many(ADMIN, "/jobs/workers/live"),
    ("job_workers.stop", "POST"): Route(ADMIN, ("/jobs/workers/stop",), WORKER),
    ("api_jobs.list_workers", "GET"): many(ADMIN, "/api/v1/jobs/workers"),
    ("api_jobs.stop_worker", "POST"): Route(ADMIN, ("/api/v1/jobs/workers/a-worker/stop",)),
    ("api_jobs.list_active_jobs", "GET"): many(STAFF, "/api/v1/jobs/active"),
    ("api_jobs.get_job_figures", "GET"): many(STAFF, "/api/v1/jobs/stats", "/api/v1/jobs/stats?span=7d"),
}

UNSCOPED = ()


def make_rows(user: User) -> dict[str, str]:
    """A worker, which belongs to no school."""
    db.session.merge(WorkerProcess(name="a-worker", kind="light", host="here", pid=1, queues="default"))
    db.session.commit()
    return {}
