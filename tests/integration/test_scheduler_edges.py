"""At the edges: the tick's own uniqueness, and the order of what a pass of the clock does."""

from __future__ import annotations

import math

import pytest
import redis
import sqlalchemy as sa

from app.outbox import JobRecord, JobState, Schedule, enqueue, publisher
from jobs.engine import claim, heartbeat, schedule
from jobs.engine.errors import ScheduleError
from jobs.engine.schedule import ScheduleEntry
from tests.clocks import ENTRY, TIMERS, end_all, jobs_of_schedule, one_pass, scheduler
from tests.domain import fall_silent


def test_a_scheduler_that_read_before_another_ticked_repeats_nothing_even_when_that_job_has_ended(app, session, clock):
    one_pass(scheduler(app))
    clock.shift(60)
    assert len(schedule.tick(session, ENTRY)) == 1
    end_all(session)
    session.execute(sa.update(Schedule).values(last_tick_at=None))  # what the other one had read
    session.commit()
    assert schedule.tick(session, ENTRY) == []
    assert [job.state for job in jobs_of_schedule(session)] == [JobState.COMPLETED]


def test_a_timer_whose_record_could_not_be_pushed_stays(app, session, clock, broker, monkeypatch):
    ours = scheduler(app)
    id = enqueue("test.act", delay=5)
    session.commit()
    clock.shift(10)

    def die(*args: object, **options: object) -> None:
        raise redis.ConnectionError

    monkeypatch.setattr(publisher(app), "push", die)
    with pytest.raises(redis.ConnectionError):
        ours.enqueue_jobs()
    assert broker.zscore(TIMERS, id) is not None


def test_a_push_and_the_end_of_its_timer_are_one_transaction_of_redis(app, session, broker):
    id = enqueue("test.act", delay=5)
    session.commit()
    record = publisher(app)
    seen = []
    pipeline = record.connection.pipeline

    def spy(transaction: bool = True, **options: object):
        seen.append(transaction)
        return pipeline(transaction=transaction, **options)

    record.connection.pipeline = spy
    from app.outbox import Published

    record.push([Published(id, "test.act", "default", 2)], timers=[id.encode()])
    assert seen == [True]
    assert broker.zscore(TIMERS, id) is None


def test_a_timer_that_is_too_early_waits_for_the_time_that_sql_gives(app, session, clock, broker):
    id = enqueue("test.act", delay=100)
    session.commit()
    due = broker.zscore(TIMERS, id)
    broker.zadd(TIMERS, {id: 1})
    scheduler(app).enqueue_jobs()
    assert broker.llen("rq:queue:default") == 0
    assert broker.zscore(TIMERS, id) == pytest.approx(due)


def test_a_scheduler_without_the_lock_still_rescues(app, session, clock, broker):
    one_pass(scheduler(app))
    heartbeat.register(session, "dead", "light", ["default"])
    id = enqueue("test.act")
    session.commit()
    claim.claim(session, [id], "dead")
    fall_silent(session)
    broker.set("rq:scheduler_lock", "somebody else")
    standby = scheduler(app)
    standby._beaten_at = math.inf  # it has been giving signs of life without a gap
    for _ in range(5):  # several, in case a scheduler judges nobody right after its own silence
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


def test_a_scheduler_that_was_silent_itself_judges_nobody_yet(app, session, clock):
    """After an outage of the database the workers get the time to give signs of life before they count as dead."""
    heartbeat.register(session, "alive", "light", ["default"])
    id = enqueue("test.act")
    session.commit()
    claim.claim(session, [id], "alive")
    fall_silent(session)
    one_pass(scheduler(app))
    assert session.get_one(JobRecord, id, populate_existing=True).state is JobState.RUNNING


@pytest.mark.parametrize("entry", [{"cron": "0 0 30 2 *"}, {"cron": "0 0 * * *", "zone": "Mars/Base"}])
def test_a_schedule_that_never_ticks_stops_the_start(app, entry):
    with pytest.raises(ScheduleError, match=r"has no next tick|never ticks"):
        schedule.check([ScheduleEntry("x", job="test.act", **entry)], app.config)
