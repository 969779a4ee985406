"""Invariant 5: every tick once; and delayed jobs reach their queue on time, also after Redis was wiped."""

from __future__ import annotations

from datetime import timedelta

import pytest
import redis
import sqlalchemy as sa

from app import create_app
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.db.columns import new_id
from flask_belfry.extension import init_app
from flask_belfry.outbox import JobRecord, JobState, Schedule, cancel, enqueue
from flask_belfry.outbox.models import TickOutcome
from flask_belfry.scheduler import ScheduleEntry, ScheduleError, schedule
from flask_belfry.scheduler.scheduler import LOCK_SECONDS, MEMORY_KEY
from tests.clocks import ENTRY, TIMERS, end_all, jobs_of_schedule, one_pass, outcomes, scheduler, settled_at_once


def test_each_tick_makes_one_job(app, session, clock, broker):
    ours = scheduler(app)
    one_pass(ours)
    assert jobs_of_schedule(session) == []
    for _ in range(3):
        clock.shift(60)
        one_pass(ours)
        one_pass(ours)
        end_all(session)
    assert len(jobs_of_schedule(session)) == 3
    assert outcomes(session) == [TickOutcome.ENQUEUED] * 3


def test_a_tick_is_enqueued_once_by_two_schedulers_at_the_same_moment(app, session, clock, broker):
    one_pass(scheduler(app))
    clock.shift(60)
    assert settled_at_once(app, ENTRY, schedulers=8) == 1
    assert len(jobs_of_schedule(session)) == 1
    assert broker.llen("rq:queue:default") == 1


def test_a_scheduler_that_dies_between_the_tick_and_its_timer_repeats_nothing(app, session, clock, monkeypatch):
    ours = scheduler(app)
    one_pass(ours)
    clock.shift(60)
    monkeypatch.setattr(ours, "_set_ticks", lambda entries: (_ for _ in ()).throw(redis.ConnectionError))
    ours._last_run.clear()
    with pytest.raises(redis.ConnectionError):
        ours.enqueue_jobs()
    db.session.rollback()
    monkeypatch.undo()
    one_pass(ours)
    assert len(jobs_of_schedule(session)) == 1


def test_missed_ticks_within_the_window_run_once_and_older_ones_are_on_record(app, session, clock):
    ours = scheduler(app)
    one_pass(ours)
    clock.shift(5 * 60)
    one_pass(ours)
    assert outcomes(session) == [TickOutcome.MISSED] * 4 + [TickOutcome.ENQUEUED]
    assert len(jobs_of_schedule(session)) == 1


def test_after_a_long_absence_a_daily_schedule_that_is_too_late_only_says_so(app, session, clock):
    entry = ScheduleEntry("test.hourly", job="test.act", every=3600, catch_up_seconds=60)
    ours = scheduler(app, entry)
    one_pass(ours)
    half_past = (utc_now() + timedelta(hours=3)).replace(minute=30)
    clock.move_to(half_past)
    one_pass(ours)
    assert set(outcomes(session)) == {TickOutcome.MISSED}
    assert jobs_of_schedule(session) == []


def test_two_jobs_of_one_schedule_never_live_at_once(app, session, clock):
    ours = scheduler(app)
    one_pass(ours)
    for _ in range(2):
        clock.shift(60)
        one_pass(ours)
    assert len(jobs_of_schedule(session)) == 1
    assert len(outcomes(session)) == 2


def test_a_paused_schedule_lets_its_ticks_pass(app, session, clock):
    ours = scheduler(app)
    one_pass(ours)
    session.execute(sa.update(Schedule).values(paused_at=utc_now()))
    session.commit()
    clock.shift(60)
    one_pass(ours)
    assert outcomes(session) == [TickOutcome.PAUSED]
    assert jobs_of_schedule(session) == []


def test_schedules_are_reconciled_by_name(app, session, clock, broker):
    before = scheduler(app, ENTRY, ScheduleEntry("test.old", job="test.act", every=10))
    one_pass(before)
    before.remove_lock()
    one_pass(scheduler(app, ScheduleEntry("test.every_minute", job="test.act", every=120)))
    rows = session.scalars(sa.select(Schedule)).all()
    assert [(row.name, row.timing) for row in rows] == [("test.every_minute", "every 120 s")]
    assert broker.zrange(TIMERS, 0, -1) == [b"schedule:test.every_minute"]


def test_restarts_do_not_pile_schedules_up(app, session, clock, broker):
    for _ in range(5):
        ours = scheduler(app)
        one_pass(ours)
        ours.remove_lock()
    assert session.scalar(sa.select(sa.func.count(Schedule.name))) == 1
    assert broker.zcard(TIMERS) == 1


def test_a_schedule_of_an_unknown_job_stops_the_start(app):
    from flask_belfry.outbox import UnknownJobError

    with pytest.raises(UnknownJobError):
        schedule.check([ScheduleEntry("x", job="no.such", every=1)], app.config)
    with pytest.raises(ScheduleError, match="set either every or cron"):
        schedule.check([ScheduleEntry("x", job="test.act")], app.config)
    with pytest.raises(ScheduleError, match="two entries named"):
        schedule.check([ENTRY, ENTRY], app.config)


def test_a_wrong_schedule_stops_the_start_with_one_line(settings, tmp_path):
    app = create_app(environ=settings, instance_path=tmp_path)
    with pytest.raises(SystemExit) as stop:
        init_app(app, [ScheduleEntry("nightly", job="test.act", cron="R 3 * * *")])
    line = "belfry: schedule nightly: cron must have five fields such as '0 3 * * *', not 'R 3 * * *': Bad minute"
    assert stop.value.code == line


def test_a_delayed_job_is_queued_at_its_time_and_not_before(app, session, clock, broker):
    ours = scheduler(app)
    id = enqueue("test.act", delay=30)
    session.commit()
    assert session.get(JobRecord, id).state is JobState.SCHEDULED
    one_pass(ours)
    assert broker.llen("rq:queue:default") == 0
    clock.shift(31)
    one_pass(ours)
    assert broker.lrange("rq:queue:default", 0, -1) == [id.encode()]
    assert broker.zscore(TIMERS, id) is None
    assert session.get(JobRecord, id, populate_existing=True).state is JobState.PENDING


def test_timers_are_rebuilt_from_sql_when_redis_has_lost_them(app, session, clock, broker):
    ours = scheduler(app)
    one_pass(ours)
    id = enqueue("test.act", delay=timedelta(days=3))
    session.commit()
    broker.flushall()
    ours.work_once()
    assert broker.zscore(TIMERS, id) is not None
    assert broker.zscore(TIMERS, "schedule:test.every_minute") is not None
    assert broker.exists(MEMORY_KEY)


def test_a_timer_that_was_never_set_is_found_before_its_time(app, session, clock, broker):
    ours = scheduler(app)
    one_pass(ours)
    id = enqueue("test.act", delay=20)
    session.commit()
    broker.zrem(TIMERS, id)  # the broker was away at that commit
    one_pass(ours)
    assert broker.zscore(TIMERS, id) is not None


def test_an_undecodable_job_delays_no_other(app, session, clock, broker):
    ours = scheduler(app)
    one_pass(ours)
    first, second = enqueue("test.act", delay=5), enqueue("test.act", delay=6)
    session.commit()
    stranger = new_id()
    broker.hset(f"rq:job:{stranger}", mapping={"data": b"\x80\x04 not json", "status": "scheduled"})
    broker.hset(f"rq:job:{first}", mapping={"data": b"\x80\x04 broken"})
    broker.zadd(TIMERS, {stranger: 1, "not an id at all": 2, b"\xff\xfe": 3, "schedule:gone": 4})
    clock.shift(10)
    one_pass(ours)
    assert set(broker.lrange("rq:queue:default", 0, -1)) == {first.encode(), second.encode()}
    assert broker.zrange(TIMERS, 0, -1) == [b"schedule:test.every_minute"]


def test_a_timer_of_a_cancelled_job_ends_without_a_trace(app, session, clock, broker):
    ours = scheduler(app)
    id = enqueue("test.act", delay=5)
    session.commit()
    cancel([id])
    session.commit()
    clock.shift(10)
    one_pass(ours)
    assert broker.llen("rq:queue:default") == 0
    assert broker.zscore(TIMERS, id) is None


def test_the_lock_has_an_owner_is_renewed_and_dies_with_it(app, session, clock, broker):
    first, second = scheduler(app), scheduler(app)
    assert first.acquire_lock()
    assert first.acquire_lock()
    assert not second.acquire_lock()
    second.remove_lock()
    assert not second.acquire_lock()
    assert 0 < broker.ttl("rq:scheduler_lock") <= LOCK_SECONDS
    first.remove_lock()
    assert second.acquire_lock()


def test_a_scheduler_without_the_lock_waits(app, session, clock, broker):
    first, second = scheduler(app), scheduler(app)
    one_pass(first)
    clock.shift(60)
    one_pass(second)
    assert jobs_of_schedule(session) == []


def test_run_now_gives_the_living_job_instead_of_a_second_one(app, session, clock):
    one_pass(scheduler(app))
    first = schedule.run_now(session, ENTRY)
    session.commit()
    assert schedule.run_now(session, ENTRY) == first
