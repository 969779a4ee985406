"""A user stops a worker: it finishes what it runs, its parent replaces it, and heartbeats record what it has done."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.execution import heartbeat
from flask_belfry.execution.heartbeat import Standing
from flask_belfry.operations import workers
from flask_belfry.outbox import JobRecord, JobState, WorkerProcess
from tests.job_records import asked, count, read, state_is
from tests.servers import wait_until

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
SOON = {"HEARTBEAT_SECONDS": "0.5", "RESCUE_AFTER_SECONDS": "5"}


def process(session: Session, name: str | None) -> WorkerProcess:
    """Return the row of a process as it is now."""
    session.rollback()
    return session.get_one(WorkerProcess, name, populate_existing=True)


def ended(session: Session, name: str) -> int:
    """Return how many jobs a worker has completed."""
    return count(session, JobRecord, JobRecord.worker == name, JobRecord.state == JobState.COMPLETED)


def started(session: Session, kind: str) -> int:
    """Return how many processes of a kind have started."""
    session.rollback()
    return len(session.scalars(sa.select(WorkerProcess.name).where(WorkerProcess.kind == kind)).all())


@on_sqlite
@pytest.mark.parametrize(
    ("options", "kind", "job"), [((), "light", "test.long_nap"), (("--heavy",), "heavy", "test.heavy_long_nap")]
)
def test_a_worker_that_a_user_stops_finishes_its_job_and_is_replaced(app, session, processes, options, kind, job):
    processes.worker(*options, **SOON)
    first = asked(session, job, seconds=0)
    wait_until(state_is(session, first, JobState.COMPLETED), seconds=30)
    id = asked(session, job, seconds=3)
    wait_until(state_is(session, id, JobState.RUNNING), seconds=30)
    name = read(session, id).worker
    assert name is not None
    # The job of a hook has ended too, where this worker serves its queue.
    wait_until(lambda: process(session, name).jobs_done == ended(session, name) >= 1, seconds=10)
    assert (process(session, name).memory_bytes or 0) > 10_000_000
    workers.stop(name)
    wait_until(lambda: process(session, name).stopped_at is not None, seconds=20)
    record = read(session, id)
    assert (record.state, record.claims, record.worker) == (JobState.COMPLETED, 1, name), processes.output()
    wait_until(lambda: started(session, kind) == 2, seconds=20)
    last = asked(session, job, seconds=0)
    wait_until(state_is(session, last, JobState.COMPLETED), seconds=30)
    assert read(session, last).worker != name


def test_a_heartbeat_returns_what_the_process_must_do_and_writes_its_figures_in_one_statement(
    app, session, statements, monkeypatch
):
    assert heartbeat.beat(session, "a", jobs_done=0) is Standing.UNKNOWN
    heartbeat.register(session, "a", "light", ["default"])
    statements.clear()
    assert heartbeat.beat(session, "a", jobs_done=7) is Standing.RUNNING
    assert [statement.split()[0] for statement in statements] == ["UPDATE"]
    row = process(session, "a")
    memory = row.memory_bytes
    assert (row.jobs_done, (memory or 0) > 10_000_000) == (7, True)
    workers.stop("a")
    # One that another process sends knows nothing of the figures.
    assert heartbeat.beat(session, "a") is Standing.STOP_REQUESTED
    row = process(session, "a")
    assert (row.jobs_done, row.memory_bytes) == (7, memory)
    monkeypatch.setattr(heartbeat, "_MEMORY", heartbeat._MEMORY / "lost")
    assert heartbeat.beat(session, "a", jobs_done=8) is Standing.STOP_REQUESTED
    row = process(session, "a")
    assert (row.jobs_done, row.memory_bytes) == (8, None)
