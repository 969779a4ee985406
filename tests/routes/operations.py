"""The routes of the overview, batches, queues and the API of jobs, and what another school has of them."""

from __future__ import annotations

from app.accounts import User
from flask_belfry.changes import Actor, use_actor
from flask_belfry.db import db
from flask_belfry.db.tenancy import scope_of, use_scope
from flask_belfry.operations import BulkKind, bulk, custom_schedules
from flask_belfry.operations.custom_schedules import Draft
from flask_belfry.outbox import batch, enqueue
from tests.tenancy import ADMIN, OPERATOR, STAFF, Route, many, one

BATCH, API_BATCH, API_JOB = "/jobs/batches/{batch}", "/api/v1/batches/{batch}", "/api/v1/jobs/{batch_job}"
BULK, API_BULK = "/jobs/operations/{bulk}", "/api/v1/jobs/operations"
API_SCHEDULE = "/api/v1/jobs/schedule/custom.of-another-school"
SCHEDULE = {"name": "of-another-school", "job": "test.echo", "every_seconds": 60}
VERBS = ("pause", "resume", "run")
PAUSE = {"kind": "limit", "name": "zarathustra"}

ROUTES: dict[tuple[str, str], Route] = {
    ("operations.completions", "GET"): many(STAFF, "/jobs/completions", "/jobs/completions?q=error:"),
    ("overview.operations", "GET"): many(STAFF, "/operations", "/operations?span=7d"),
    ("overview.operations_live", "GET"): many(STAFF, "/operations/live", "/operations/live?span=24h"),
    ("schedule.list_live", "GET"): many(STAFF, "/schedule/live", "/schedule/live?name=custom"),
    ("batches.list_", "GET"): many(STAFF, "/jobs/batches", "/jobs/batches?show=open"),
    ("batches.list_live", "GET"): many(STAFF, "/jobs/batches/live", "/jobs/batches/live?show=open"),
    ("batches.detail", "GET"): one(STAFF, BATCH),
    ("batches.detail_live", "GET"): one(STAFF, f"{BATCH}/live"),
    ("batches.cancel", "POST"): one(OPERATOR, f"{BATCH}/cancel"),
    ("batches.retry", "POST"): one(OPERATOR, f"{BATCH}/retry", cancelled="1"),
    ("bulk.list_", "GET"): many(STAFF, "/jobs/operations"),
    ("bulk.list_live", "GET"): many(STAFF, "/jobs/operations/live"),
    ("bulk.preview", "GET"): many(
        OPERATOR,
        "/jobs/operations/new?kind=cancel",
        "/jobs/operations/new?kind=cancel&batch={batch}",
        "/jobs/operations/new?kind=cancel&id={batch_job}",
    ),
    ("bulk.begin", "POST"): Route(OPERATOR, ("/jobs/operations/new",), {"kind": "cancel", "id": "{batch_job}"}, 422),
    ("bulk.detail", "GET"): one(STAFF, BULK),
    ("bulk.detail_live", "GET"): one(STAFF, f"{BULK}/live"),
    ("bulk.cancel", "POST"): one(OPERATOR, f"{BULK}/cancel"),
    ("bulk.undo", "POST"): one(OPERATOR, f"{BULK}/undo"),
    ("enqueue.new", "GET"): many(ADMIN, "/jobs/enqueue", "/jobs/enqueue?job=test.echo"),
    ("enqueue.create", "POST"): Route(ADMIN, ("/jobs/enqueue",), {"job": "test.echo"}),
    ("operations.run", "POST"): one(OPERATOR, "/jobs/{batch_job}/run"),
    ("queues.list_", "GET"): many(STAFF, "/jobs/queues"),
    ("queues.list_live", "GET"): many(STAFF, "/jobs/queues/live"),
    ("queues.pause", "POST"): Route(ADMIN, ("/jobs/queues/pause",), PAUSE),
    ("queues.resume", "POST"): Route(ADMIN, ("/jobs/queues/resume",), PAUSE),
    ("api_jobs.list_jobs", "GET"): many(
        STAFF,
        "/api/v1/jobs?limit=100",
        "/api/v1/jobs?batch={batch}",
        "/api/v1/jobs?text={batch_job}",
        "/api/v1/jobs?q=id:{batch_job}",
        "/api/v1/jobs?q=-state:failed+zarathustra",
    ),
    ("api_jobs.get_job", "GET"): one(STAFF, API_JOB),
    ("api_jobs.retry_job", "POST"): one(OPERATOR, f"{API_JOB}/retry"),
    ("api_jobs.cancel_job", "POST"): one(OPERATOR, f"{API_JOB}/cancel"),
    ("api_jobs.run_job", "POST"): one(OPERATOR, f"{API_JOB}/run"),
    ("api_jobs.retry_jobs", "POST"): Route(OPERATOR, ("/api/v1/jobs/retry",), {"batch": "{batch}"}, 200),
    ("api_jobs.cancel_jobs", "POST"): Route(OPERATOR, ("/api/v1/jobs/cancel",), {"batch": "{batch}"}, 200),
    ("api_jobs.list_operations", "GET"): many(STAFF, API_BULK, f"{API_BULK}?limit=100"),
    ("api_jobs.preview_operation", "GET"): many(
        OPERATOR,
        f"{API_BULK}/preview?kind=cancel&batch={{batch}}",
        f"{API_BULK}/preview?kind=cancel&ids={{batch_job}}",
    ),
    ("api_jobs.begin_operation", "POST"): Route(OPERATOR, (API_BULK,), {"kind": "cancel", "ids": ["{batch_job}"]}, 422),
    ("api_jobs.get_operation", "GET"): one(STAFF, f"{API_BULK}/{{bulk}}"),
    ("api_jobs.stop_operation", "POST"): one(OPERATOR, f"{API_BULK}/{{bulk}}/stop"),
    ("api_jobs.undo_operation", "POST"): one(OPERATOR, f"{API_BULK}/{{bulk}}/undo"),
    ("api_jobs.list_batches", "GET"): many(STAFF, "/api/v1/batches?limit=100", "/api/v1/batches?open=true"),
    ("api_jobs.get_batch", "GET"): one(STAFF, API_BATCH),
    ("api_jobs.cancel_batch", "POST"): one(OPERATOR, f"{API_BATCH}/cancel"),
    ("api_jobs.retry_batch", "POST"): one(OPERATOR, f"{API_BATCH}/retry", cancelled=True),
    ("api_jobs.list_queues", "GET"): many(STAFF, "/api/v1/jobs/queues"),
    ("api_jobs.list_pauses", "GET"): many(STAFF, "/api/v1/jobs/pauses"),
    ("api_jobs.list_schedules", "GET"): many(STAFF, "/api/v1/jobs/schedule"),
    ("api_jobs.get_schedule", "GET"): one(STAFF, API_SCHEDULE),
    ("api_jobs.create_schedule", "POST"): Route(ADMIN, ("/api/v1/jobs/schedule",), SCHEDULE),
    ("api_jobs.change_schedule", "PATCH"): Route(ADMIN, (API_SCHEDULE,)),
    ("api_jobs.delete_schedule", "DELETE"): Route(ADMIN, (API_SCHEDULE,)),
    **{(f"api_jobs.{verb}_schedule", "POST"): Route(ADMIN, (f"{API_SCHEDULE}/{verb}",)) for verb in VERBS},
    ("api_jobs.pause", "POST"): Route(ADMIN, ("/api/v1/jobs/pauses",), PAUSE),
    ("api_jobs.resume", "DELETE"): Route(ADMIN, ("/api/v1/jobs/pauses?kind=limit&name=zarathustra",)),
}

# The names of the jobs, which are those of the code.
UNSCOPED = (r"WITH RECURSIVE different\(value\) AS \(SELECT min\(job_records\.name\) ",)


def make_rows(user: User) -> dict[str, str]:
    """A batch of a user with one job, an operation over it, and a schedule of the user's school."""
    with use_actor(Actor(user.id, school_id=user.school_id)), batch("Zarathustras batch") as opened:
        job_id = enqueue("test.echo")
        # It belongs to the school of the user who begins it.
        with use_scope(scope_of(user.school_id)):
            operation = bulk.begin(BulkKind.CANCEL, "Zarathustras jobs", ids=[job_id])
    db.session.commit()
    if user.name == "Zarathustra":
        custom_schedules.create(Draft(**SCHEDULE, school_id=user.school_id))
    return {"batch": opened.id, "batch_job": job_id, "bulk": operation.id}
