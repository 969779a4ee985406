"""The scheduler in rare cases: the uniqueness of ticks, and the order of the steps of a pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from unittest.mock import ANY

import pytest
import redis
import sqlalchemy as sa

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.execution import claim, heartbeat
from flask_belfry.outbox import JobRecord, JobState, Schedule, ScheduleTick, enqueue, publisher
from flask_belfry.outbox.models import TickOutcome
from flask_belfry.outbox.pending import PendingMessage
from flask_belfry.outbox.relay import relay
from flask_belfry.scheduler import ScheduleError, schedule
from flask_belfry.scheduler.schedule import ScheduleEntry
from flask_belfry.scheduler.scheduler import REFRESH_SECONDS, BelfryScheduler
from tests.clocks import ENTRY, LOCK, QUEUE, TICK, TIMERS, end_all, jobs_of_schedule, one_pass, outcomes, scheduler
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
    record.push([PendingMessage(id, "test.act", "default", 2)], members=[id.encode()])
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
    standby._heartbeat_at, standby._heartbeats_since = math.inf, -math.inf  # its heartbeats have had no gap
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
    """After an outage of the database, workers have time to send heartbeats before they are considered crashed."""
    heartbeat.register(session, "alive", "light", ["default"])
    id = enqueue("test.act")
    session.commit()
    claim.claim(session, [id], "alive")
    fall_silent(session)
    one_pass(scheduler(app))
    assert session.get_one(JobRecord, id, populate_existing=True).state is JobState.RUNNING


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"cron": "0 0 30 2 *"}, "Bad day-of-month"),
        ({"cron": "0 0 * * *", "zone": "Mars/Base"}, "has no next tick"),
    ],
)
def test_a_schedule_that_never_ticks_stops_the_start(app, entry, reason):
    with pytest.raises(ScheduleError, match=reason):
        schedule.check([ScheduleEntry("x", job="test.act", **entry)], app.config)


def test_what_is_wrong_with_one_schedule_holds_up_neither_the_others_nor_the_timers(app, session, clock, broker):
    ours = scheduler(app, ScheduleEntry("test.bad", job="no.such.job", every=60), ENTRY)
    one_pass(ours)
    id = enqueue("test.act", delay=5)
    session.commit()
    clock.shift(60)
    one_pass(ours)
    assert set(session.scalars(sa.select(ScheduleTick.schedule))) == {ENTRY.name}
    (job,) = jobs_of_schedule(session)
    assert set(broker.lrange(QUEUE, 0, -1)) == {id.encode(), job.id.encode()}
    # It is tried again, but not in every pass.
    assert broker.zscore(TIMERS, "schedule:test.bad") == pytest.approx(utc_now().timestamp() + REFRESH_SECONDS)


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


def test_an_entry_that_could_never_work_stops_the_start(app):
    with pytest.raises(ScheduleError, match=r"test\.greet requires ticket_id"):
        schedule.check([ScheduleEntry("x", job="test.greet", every=1)], app.config)
    with pytest.raises(ScheduleError, match="its name is longer than 120 characters"):
        schedule.check([ScheduleEntry("x" * 121, job="test.act", every=1)], app.config)
    minutes = ",".join(str(minute) for minute in range(60))
    with pytest.raises(ScheduleError, match="its timing is longer than 120 characters"):
        schedule.check([ScheduleEntry("x", job="test.act", cron=f"{minutes} * * * *")], app.config)


@pytest.mark.parametrize(
    ("catch_up_seconds", "late_seconds", "outcome"),
    [
        (600, 600, TickOutcome.ENQUEUED),
        (600, 601, TickOutcome.MISSED),
        (0, 15, TickOutcome.ENQUEUED),  # as long as a takeover may take
        (0, 16, TickOutcome.MISSED),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_tick_runs_late_to_the_end_of_its_window(app, session, clock, catch_up_seconds, late_seconds, outcome):
    entry = ScheduleEntry("test.hourly", job="test.act", every=3600, catch_up_seconds=catch_up_seconds)
    clock.move_to(utc_now().replace(minute=30, second=0))
    ours = scheduler(app, entry)
    one_pass(ours)
    clock.shift(1800 + late_seconds)
    one_pass(ours)
    assert outcomes(session) == [outcome]


def test_of_a_long_absence_the_newest_tick_runs_and_not_every_one_before_is_listed(app, session, clock):
    entry = ScheduleEntry("test.every_second", job="test.act", every=1, catch_up_seconds=86_400)
    ours = scheduler(app, entry)
    one_pass(ours)
    clock.shift(3 * 3600)
    for _ in range(3):
        one_pass(ours)
    (job,) = jobs_of_schedule(session)
    ticks = session.execute(sa.select(ScheduleTick.tick_at, ScheduleTick.job_id).order_by(ScheduleTick.tick_at)).all()
    assert len(ticks) == schedule.MAX_TICKS_RECORDED
    assert ticks[-1] == (utc_now(), job.id)


def test_a_clock_that_was_a_year_ahead_neither_silences_a_schedule_nor_repeats_its_ticks(app, session, clock):
    ours = scheduler(app)
    one_pass(ours)
    start = utc_now().replace(second=0)
    for seconds in (60, 365 * 86_400, -365 * 86_400 - 60, 60, 60):
        clock.shift(seconds)
        one_pass(ours)
        end_all(session)
    enqueued = sa.select(ScheduleTick.tick_at).where(ScheduleTick.outcome == TickOutcome.ENQUEUED)
    minutes = [(tick_at - start) / timedelta(minutes=1) for tick_at in session.scalars(enqueued)]
    assert sorted(minutes) == [1, 2, 365 * 24 * 60 + 1]
    assert len(jobs_of_schedule(session)) == 3


def test_hosts_whose_clocks_differ_take_turns_and_neither_lose_nor_repeat_a_tick(app, session, clock):
    entry = ScheduleEntry("test.every_ten", job="test.act", every=10, catch_up_seconds=600)
    right, ahead = scheduler(app, entry), scheduler(app, entry)
    for _ in range(4):
        for ours, seconds in ((ahead, 30), (right, -30)):
            clock.shift(seconds)
            for _ in range(2):
                clock.shift(10)
                one_pass(ours)
                end_all(session)
            ours.remove_lock()
    ticks = session.execute(sa.select(ScheduleTick.tick_at, ScheduleTick.job_id).order_by(ScheduleTick.tick_at)).all()
    assert {later.tick_at - tick.tick_at for tick, later in pairwise(ticks)} == {timedelta(seconds=10)}
    enqueued = [tick.job_id for tick in ticks if tick.job_id]
    assert len(enqueued) == len(set(enqueued)) == len(jobs_of_schedule(session))
    assert ticks[-1].tick_at > utc_now()  # what ran ahead is not taken back


def test_a_schedule_whose_job_changes_misses_no_tick_and_one_whose_timing_changes_begins_anew(app, session, clock):
    schedule.reconcile(session, [ENTRY])
    clock.shift(60)
    schedule.reconcile(session, [replace(ENTRY, job="test.act_in_chunks")])
    assert len(schedule.tick(session, ENTRY)) == 1
    clock.shift(60)
    retimed = replace(ENTRY, every=30)
    schedule.reconcile(session, [retimed])
    assert schedule.tick(session, retimed) == []
    clock.shift(30)
    assert len(schedule.tick(session, retimed)) == 1


def test_a_schedule_that_is_resumed_catches_up_on_nothing_even_when_no_scheduler_ran(app, session, clock):
    app.extensions["schedule"] = [ENTRY]
    schedule.reconcile(session, [ENTRY])
    run = app.test_cli_runner().invoke
    assert run(args=["schedule", "pause", ENTRY.name]).exit_code == 0
    clock.shift(120)
    assert run(args=["schedule", "resume", ENTRY.name]).exit_code == 0
    assert schedule.tick(session, ENTRY) == []
    assert outcomes(session) == [TickOutcome.PAUSED] * 2
    clock.shift(60)
    assert len(schedule.tick(session, ENTRY)) == 1


def test_the_relay_ends_the_timers_of_what_it_pushes(app, session, clock, broker):
    id = enqueue("test.act", delay=5)
    session.commit()
    clock.shift(20)
    assert relay(publisher(app)).pushed == 1
    assert broker.zscore(TIMERS, id) is None


def test_a_worker_whose_clock_is_behind_does_not_refuse_what_the_scheduler_gives_it(app, session, clock, broker):
    id = enqueue("test.act", delay=5)
    session.commit()
    clock.shift(5)
    scheduler(app).enqueue_jobs()
    assert broker.lrange(QUEUE, 0, -1) == [id.encode()]
    clock.shift(-0.5)
    assert [item.id for item in claim.claim(session, [id], "w")] == [id]


def test_what_the_scheduler_pushes_counts_as_queued_by_then(app, session, clock, broker, monkeypatch):
    """A worker fetches it immediately: if it were still scheduled, a worker with a slow clock would not claim it."""
    id = enqueue("test.act", delay=5)
    session.commit()
    clock.shift(5)
    pusher, states = publisher(app), []
    push = pusher.push

    def spy(*args, **options) -> None:
        states.append(session.scalar(sa.select(JobRecord.state).where(JobRecord.id == id)))
        session.rollback()
        push(*args, **options)

    monkeypatch.setattr(pusher, "push", spy)
    scheduler(app).enqueue_jobs()
    assert states == [JobState.QUEUED]


def test_a_tick_that_redis_has_lost_is_set_again_at_once(app, session, clock, broker):
    ours = scheduler(app)
    one_pass(ours)
    broker.zrem(TIMERS, TICK)
    ours.enqueue_jobs()
    assert broker.zscore(TIMERS, TICK) is not None


def test_timers_under_other_spellings_of_an_id_do_not_stay(app, session, clock, broker):
    id = enqueue("test.act", delay=100)
    session.commit()
    true_time = broker.zscore(TIMERS, id)
    broker.zadd(TIMERS, {f"{{{id}}}": 1, id.upper(): -1, id: 1})
    scheduler(app).enqueue_jobs()
    timers = dict(broker.zrange(TIMERS, 0, -1, withscores=True))
    assert timers == {id.encode(): pytest.approx(true_time), TICK.encode(): ANY}


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


def test_a_scheduler_that_is_stopped_while_the_database_is_away_leaves_no_lock(app, clock, broker, monkeypatch):
    def fail(*args: object) -> None:
        raise sa.exc.OperationalError("UPDATE worker_processes", {}, Exception("away"))

    ours = scheduler(app)
    assert ours.acquire_lock()
    monkeypatch.setattr(heartbeat, "sign_off", fail)
    ours._sign_off()
    assert not broker.exists(LOCK)
