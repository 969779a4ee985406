"""A scheduler without its lock, its database or its Redis."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import redis
import sqlalchemy as sa

from flask_belfry.db import db
from flask_belfry.execution import claim, heartbeat
from flask_belfry.outbox import JobRecord, JobState, enqueue
from flask_belfry.scheduler.scheduler import BelfryScheduler
from tests.clocks import LOCK, jobs_of_schedule, one_pass, scheduler
from tests.domain import fall_silent


def test_a_scheduler_without_the_lock_still_rescues(app, session, clock, broker):
    one_pass(scheduler(app))
    heartbeat.register(session, "dead", "light", ["default"])
    id = enqueue("test.act")
    session.commit()
    claim.claim(session, [id], "dead")
    fall_silent(session)
    broker.set("rq:scheduler_lock", "another scheduler")
    standby = scheduler(app)
    standby._heartbeat_at, standby._heartbeats_since = math.inf, -math.inf  # its heartbeats have had no gap
    for _ in range(5):  # several: a scheduler rescues no job right after its own silence
        one_pass(standby)
        clock.shift(3)
    assert session.get_one(JobRecord, id, populate_existing=True).state is JobState.PENDING


def test_a_pass_of_the_scheduler_publishes_what_never_arrived(app, session, clock, broker):
    id = enqueue("test.act")
    session.commit()
    broker.flushall()
    clock.shift(10)
    one_pass(scheduler(app))
    assert broker.lrange("rq:queue:default", 0, -1) == [id.encode()]


def test_a_scheduler_that_was_silent_itself_rescues_no_job_yet(app, session, clock):
    """After an outage of the database, workers have time to send heartbeats before they are considered crashed."""
    heartbeat.register(session, "alive", "light", ["default"])
    id = enqueue("test.act")
    session.commit()
    claim.claim(session, [id], "alive")
    fall_silent(session)
    one_pass(scheduler(app))
    assert session.get_one(JobRecord, id, populate_existing=True).state is JobState.RUNNING


def test_an_error_in_the_relay_stops_no_tick(app, session, clock, monkeypatch):
    def fail(publisher: object) -> Iterator[None]:
        yield
        raise ZeroDivisionError

    monkeypatch.setattr("flask_belfry.scheduler.scheduler.relay_pages", fail)
    ours = scheduler(app)
    ours.work_once()
    clock.shift(60)
    ours.work_once()
    assert len(jobs_of_schedule(session)) == 1


def run_failing(
    ours: BelfryScheduler, monkeypatch: pytest.MonkeyPatch, failing_pass, pause=lambda seconds: None
) -> None:
    """Run a scheduler whose only pass fails; `pause` is called in the pause that follows."""

    def wait(seconds: float) -> None:
        pause(seconds)
        ours.stop()

    monkeypatch.setattr(ours, "_install_signal_handlers", lambda: None)
    monkeypatch.setattr(ours, "enqueue_jobs", failing_pass)
    monkeypatch.setattr(ours._stopping, "wait", wait)
    ours.run()


def test_a_scheduler_that_cannot_work_lets_another_have_the_lock(app, session, clock, broker, monkeypatch):
    """It may have lost the connection to the database that the other scheduler reaches."""
    taken = []

    def fail() -> None:
        assert broker.exists(LOCK)
        db.session.execute(sa.text("SELECT * FROM no_such_table"))

    run_failing(scheduler(app), monkeypatch, fail, pause=lambda seconds: taken.append(scheduler(app).acquire_lock()))
    assert taken == [True]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_outage_of_redis_and_the_database_at_once_does_not_end_the_scheduler(app, session, clock, monkeypatch):
    pauses = []

    def fail() -> None:
        pid = db.session.scalar(sa.text("SELECT pg_backend_pid()"))
        with db.engine.begin() as another:
            another.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        raise redis.ConnectionError

    run_failing(scheduler(app), monkeypatch, fail, pause=pauses.append)
    assert len(pauses) == 1


def test_a_scheduler_that_is_stopped_while_the_database_is_unavailable_leaves_no_lock(app, clock, broker, monkeypatch):
    def fail(*args: object) -> None:
        raise sa.exc.OperationalError("UPDATE worker_processes", {}, Exception("away"))

    ours = scheduler(app)
    assert ours.acquire_lock()
    monkeypatch.setattr(heartbeat, "sign_off", fail)
    ours._sign_off()
    assert not broker.exists(LOCK)
