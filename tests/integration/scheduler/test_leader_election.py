"""Several schedulers at the same time: they repeat nothing, and one takes over when another ends for any reason."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise

import pytest
import redis
import sqlalchemy as sa
from flask import Flask

from flask_belfry.core.clock import utc_now
from flask_belfry.execution import claim
from flask_belfry.outbox import JobRecord, JobRequest, JobState, ScheduleTick, WorkerProcess, enqueue_many
from flask_belfry.outbox.models import TickOutcome
from flask_belfry.scheduler import ScheduleEntry
from flask_belfry.scheduler import scheduler as clocks
from tests.clocks import LOCK, QUEUE, scheduler
from tests.forks import exit_status, fork
from tests.job_records import count
from tests.servers import wait_until

OFTEN = ScheduleEntry("test.often", job="test.act", every=0.2, catch_up_seconds=600)
EVERY_SECOND = """
import cli, scheduler, tests.domain
from flask_belfry.scheduler import ScheduleEntry
app = cli.create()
app.extensions["schedule"][:] = [ScheduleEntry("test.every_second", job="test.act", every=1)]
scheduler.main(app)
"""


def ticks(session) -> list[ScheduleTick]:
    found = list(session.scalars(sa.select(ScheduleTick).order_by(ScheduleTick.tick_at)))
    session.expunge_all()
    session.rollback()
    return found


def asked_by_ticks(session) -> set[str | None]:
    return {tick.job_id for tick in ticks(session) if tick.outcome is TickOutcome.ENQUEUED}


def assert_no_gap(session, every: timedelta) -> None:
    """Every tick since the first is on record; its key ensures that it is there once."""
    moments = [tick.tick_at for tick in ticks(session)]
    assert {later - earlier for earlier, later in pairwise(moments)} == {every}


def work(session, broker: redis.Redis) -> None:
    """Complete all jobs in the queue."""
    while ids := broker.lpop(QUEUE, 100):
        claims = claim.claim(session, [id.decode() for id in ids], "w")
        claim.complete(session, [(item, None) for item in claims])
        session.commit()


@pytest.fixture
def believers(app: Flask, session, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Two processes with schedulers that both always believe that they hold the lock."""
    monkeypatch.setattr(clocks, "PASS_SECONDS", 0.02)
    monkeypatch.setattr(clocks, "REFRESH_SECONDS", 0.5)
    monkeypatch.setattr(clocks.BelfryScheduler, "acquire_lock", lambda self: True)
    app.config.update(RELAY_SECONDS=0.5, RELAY_GRACE_SECONDS=0.5, RESCUE_AFTER_SECONDS=1.0)
    session.rollback()
    pids = [fork(lambda: scheduler(app, OFTEN).run()) for _ in range(2)]
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGTERM)
    assert [exit_status(pid) for pid in pids] == [0, 0]


def test_two_that_both_believe_to_hold_the_lock_repeat_nothing(app, session, broker, believers):
    """One is repeatedly paused at any point and continues late; Redis is wiped as well."""
    start = utc_now()
    delays = [timedelta(milliseconds=10 * n) for n in range(300)]
    enqueue_many("test.greet", [JobRequest({"ticket_id": 0}, scheduled_at=start + delay) for delay in delays])
    session.commit()
    for number in range(12):
        paused = believers[number % 2]
        os.kill(paused, signal.SIGSTOP)
        time.sleep(0.15)
        if number == 6:
            broker.flushall()
        os.kill(paused, signal.SIGCONT)
        work(session, broker)
        time.sleep(0.1)

    def is_done() -> bool:
        work(session, broker)
        is_greeted = JobRecord.name == "test.greet", JobRecord.state == JobState.COMPLETED
        return count(session, JobRecord, *is_greeted) == len(delays)

    wait_until(is_done, seconds=30)
    assert_no_gap(session, timedelta(seconds=0.2))
    asked_before = asked_by_ticks(session)
    jobs = session.execute(sa.select(JobRecord.id, JobRecord.claims, JobRecord.subject_id)).all()
    asked = asked_by_ticks(session)  # they go on
    assert asked_before <= {job.id for job in jobs if job.subject_id == OFTEN.name} <= asked
    assert {job.claims for job in jobs if job.id not in asked} == {1}
    assert {job.claims for job in jobs} <= {0, 1}
    session.rollback()


def holder_of(broker: redis.Redis) -> int | None:
    """Return the process id in the name of the scheduler that holds the lock."""
    name = broker.get(LOCK)
    return int(name.decode().split("-")[-2]) if name else None


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_another_takes_over_at_once_after_sigterm_and_within_15_seconds_after_kill_9(session, processes, broker):
    running = {process.pid: process for process in (processes.start("python", "-c", EVERY_SECOND) for _ in range(3))}

    def end_the_holder(number: signal.Signals) -> None:
        wait_until(lambda: holder_of(broker) in running, seconds=60)
        pid = holder_of(broker)
        os.kill(pid, number)
        running.pop(pid).wait(20)

    def ticks_again() -> bool:
        return bool(found := ticks(session)) and found[-1].recorded_at > ended_at

    def all_have_started() -> bool:
        return count(session, WorkerProcess, WorkerProcess.kind == "scheduler") == 3

    wait_until(all_have_started, seconds=60)
    end_the_holder(signal.SIGTERM)
    ended_at = utc_now()
    wait_until(ticks_again, seconds=clocks.LOCK_SECONDS / 2)
    end_the_holder(signal.SIGKILL)
    ended_at = utc_now()
    wait_until(ticks_again, seconds=15)
    assert_no_gap(session, timedelta(seconds=1))
