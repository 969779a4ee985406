"""The forking worker during an outage, and with a job that ignores its time limit."""

from __future__ import annotations

import signal
import sqlite3
import time

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from flask_belfry.execution import heartbeat
from flask_belfry.outbox import JobAttempt, JobRecord, JobState, WorkerProcess, enqueue
from flask_belfry.outbox.models import AttemptOutcome
from flask_belfry.workers.forking import ForkingWorker
from tests.domain import behaviour


def test_a_heavy_worker_outlives_a_database_that_is_unavailable_at_its_heartbeat(app, session, valkey, monkeypatch):
    worker = ForkingWorker(["heavy"], connection=valkey.client())

    def away(*_: object) -> int:
        raise OperationalError("SELECT", {}, sqlite3.OperationalError("away"))

    monkeypatch.setattr(heartbeat, "recover_orphans", away)
    worker._beat()
    session.rollback()
    assert session.scalar(sa.select(WorkerProcess.kind).where(WorkerProcess.name == worker.name)) == "heavy"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_work_horse_that_ignores_its_timeout_is_killed_and_has_timed_out(app, session, valkey, monkeypatch):
    def act(session, ticket_id: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(60)

    behaviour["act"] = act
    id = enqueue("test.act")
    session.commit()
    monkeypatch.setattr("flask_belfry.workers.forking.LAST_RESORT_SECONDS", 0.5)
    worker = ForkingWorker(["default"], connection=valkey.client())
    monkeypatch.setattr(worker, "_install_signal_handlers", lambda: None)
    assert worker.work(max_jobs=1)
    record = session.get_one(JobRecord, id, populate_existing=True)
    assert (record.state, record.error_type) == (JobState.RETRYABLE, "JobTimeoutError")
    assert session.scalars(sa.select(JobAttempt.outcome)).all() == [AttemptOutcome.TIMED_OUT]
