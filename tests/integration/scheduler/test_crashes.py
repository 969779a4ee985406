"""Invariants 2 and 5: a scheduler that crashes at any instruction loses no tick and no job, and repeats none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.db.columns import new_id
from flask_belfry.execution import claim
from flask_belfry.outbox import JobAttempt, JobRecord, JobState, Schedule, ScheduleTick, WorkerProcess
from flask_belfry.outbox.models import TickOutcome
from tests.clocks import ENTRY, LOCK, QUEUE, TICK, TIMERS, jobs_of_schedule, one_pass, scheduler
from tests.forks import run_with_fault

MINUTE = timedelta(seconds=60)


class World:
    """A sample of everything that a pass of the scheduler does, and the expected outcome.

    Args:
        session: the database's session.
        broker: a client of the broker.
        clock: the time.
    """

    def __init__(self, session, broker, clock) -> None:
        self._session, self._broker, self._clock = session, broker, clock
        self._now = utc_now()
        self._last_tick = self._now.replace(second=0)

    def prepare(self) -> None:
        """Restore the state before the pass."""
        self._clock.move_to(self._now)
        self._broker.flushall()
        for model in (ScheduleTick, Schedule, JobAttempt, JobRecord, WorkerProcess):
            self._session.execute(sa.delete(model))
        self._add_schedule(ENTRY.name, first_tick_at=self._last_tick - 2.5 * MINUTE)
        self._add_schedule("test.removed", first_tick_at=self._now)
        timer, early = self._now - timedelta(seconds=1), self._now - 2 * MINUTE
        self._due_by_timer = {
            self._add(JobState.SCHEDULED, scheduled_at=timer, timer=timer),
            self._add(JobState.RETRYABLE, scheduled_at=timer, timer=timer),
            self._add(JobState.QUEUED, enqueued_at=early, timer=timer),  # its mover died before the push
        }
        self._due = {
            *self._due_by_timer,
            self._add(JobState.SCHEDULED, scheduled_at=timer),  # its timer was lost
            self._add(JobState.QUEUED, enqueued_at=early),  # Redis has lost it
            self._add(JobState.PENDING, created_at=early),  # its publisher died before the push
        }
        later = self._now + timedelta(hours=1)
        self._later = {
            self._add(JobState.SCHEDULED, scheduled_at=later, timer=later),
            self._add(JobState.RETRYABLE, scheduled_at=later, timer=early),  # its timer is wrong
        }
        self._add(JobState.CANCELLED, scheduled_at=timer, timer=timer)
        self._add(JobState.RUNNING, worker="alive", started_at=self._now, timer=timer)
        self._broker.zadd(TIMERS, dict.fromkeys(["no id", TICK, "schedule:unknown", "schedule:test.removed"], 1))
        self._session.commit()

    def check(self) -> None:
        """Raise AssertionError unless every tick and every job has been processed once."""
        job = self._check_ticks()
        assert self._claimed() == sorted({*self._due, job})
        assert {member.decode() for member in self._broker.zrange(TIMERS, 0, -1)} == {*self._later, TICK}
        assert self._session.scalars(sa.select(Schedule.name)).all() == [ENTRY.name]
        self._session.rollback()

    def check_moved(self) -> None:
        """Check the same for what is done without the refresh and the relay."""
        job = self._check_ticks()
        assert sorted({*self._claimed(), job}) == sorted({*self._due_by_timer, job})
        assert {member.decode() for member in self._broker.zrange(TIMERS, 0, -1)} == {*self._later, TICK}
        assert self._broker.zcount(TIMERS, 0, utc_now().timestamp()) == 0

    def _check_ticks(self) -> str:
        found = self._session.execute(sa.select(ScheduleTick.tick_at, ScheduleTick.outcome, ScheduleTick.job_id))
        ticks = {tick_at: (outcome, job_id) for tick_at, outcome, job_id in found}
        (job,) = jobs_of_schedule(self._session)
        missed = {self._last_tick - n * MINUTE: (TickOutcome.MISSED, None) for n in (1, 2)}
        assert ticks == {**missed, self._last_tick: (TickOutcome.ENQUEUED, job.id)}
        self._session.rollback()
        return job.id

    def _claimed(self) -> list[str]:
        # Of the ids in the queue, where one may stand more than once.
        ids = [id.decode() for id in self._broker.lrange(QUEUE, 0, -1)]
        firsts = list(dict.fromkeys(ids))
        return sorted(item.id for batch in (firsts, ids) for item in claim.claim(self._session, batch, "w"))

    def _add_schedule(self, name: str, first_tick_at: datetime) -> None:
        timing = {"timing": "every 60 s", "zone": "UTC"}
        self._session.add(Schedule(name=name, job_name=ENTRY.job, first_tick_at=first_tick_at, **timing))

    def _add(self, state: JobState, timer: datetime | None = None, **columns: Any) -> str:
        id = new_id()
        job: dict[str, Any] = {"name": "test.act", "queue": "default", "args": {}, "timeout_seconds": 2}
        self._session.add(JobRecord(id=id, state=state, **job, **columns))
        if timer is not None:
            self._broker.zadd(TIMERS, {id: timer.timestamp()})
        return id


def fail_at_every_step(world: World, *, kills: bool, first: Callable[[], Any], second: Callable[[], Any]) -> int:
    """Have `first` fail at each of its steps and `second` continue; return the number of steps."""
    for number in count(1):
        world.prepare()
        steps = run_with_fault(db.engine, number, kills=kills, function=first)
        try:
            second()
        except Exception as error:
            error.add_note(f"after the fault at step {number}, {steps[-1]}")
            raise
        if len(steps) < number:
            return len(steps)
    raise AssertionError("it has no end")


@pytest.fixture
def world(app, session, broker, clock) -> World:
    return World(session, broker, clock)


@pytest.fixture
def a_pass(app) -> Callable[[], None]:
    return lambda: scheduler(app).run(burst=True)


@pytest.fixture
def takeover(app, world, broker, clock) -> Callable[[], None]:
    """Return another scheduler, after the lock of the first has expired."""

    def take_over() -> None:
        broker.delete(LOCK)
        second = scheduler(app)
        one_pass(second)
        clock.shift(15)  # the relay gives publishers their time
        one_pass(second)
        world.check()

    return take_over


def test_at_whatever_step_a_scheduler_is_killed_the_next_one_goes_on(world, a_pass, takeover):
    assert fail_at_every_step(world, kills=True, first=a_pass, second=takeover) > 30


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_whatever_answer_a_scheduler_loses_the_next_one_goes_on(world, a_pass, takeover):
    assert fail_at_every_step(world, kills=False, first=a_pass, second=takeover) > 30


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_move_itself_needs_no_refresh_and_no_relay_to_mend_it(app, world):
    """The next scheduler would restore from SQL what Redis has lost; but nothing is lost."""

    def go_on() -> None:
        scheduler(app).enqueue_jobs()
        world.check_moved()

    assert fail_at_every_step(world, kills=True, first=scheduler(app).enqueue_jobs, second=go_on) > 10
