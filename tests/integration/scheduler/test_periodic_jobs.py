"""Periodic jobs: each run time once, also late, after outages and with wrong clocks."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
import sqlalchemy as sa

from flask_belfry.core.clock import utc_now
from flask_belfry.outbox import JobState, Schedule, ScheduleTick, enqueue
from flask_belfry.outbox.models import TickOutcome
from flask_belfry.scheduler import ScheduleError, schedule
from flask_belfry.scheduler.schedule import ScheduleEntry
from flask_belfry.scheduler.scheduler import REFRESH_SECONDS
from tests.clocks import ENTRY, QUEUE, TIMERS, end_all, jobs_of_schedule, one_pass, outcomes, scheduler


def test_a_scheduler_that_read_before_another_ticked_repeats_nothing_even_when_that_job_has_ended(app, session, clock):
    one_pass(scheduler(app))
    clock.shift(60)
    assert len(schedule.tick(session, ENTRY)) == 1
    end_all(session)
    session.execute(sa.update(Schedule).values(last_tick_at=None))  # what the other one had read
    session.commit()
    assert schedule.tick(session, ENTRY) == []
    assert [job.state for job in jobs_of_schedule(session)] == [JobState.COMPLETED]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"cron": "0 0 30 2 *"}, "Bad day-of-month"),
        ({"cron": "0 0 * * *", "zone": "Mars/Base"}, "'Mars/Base' is not a time zone"),
        ({"cron": "0 0 * * *", "zone": "Europe"}, "'Europe' is not a time zone"),
        ({"cron": "0 0 * * *", "zone": "../localtime"}, "'../localtime' is not a time zone"),
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


def test_a_schedule_whose_job_changes_misses_no_tick_and_one_whose_timing_changes_begins_again(app, session, clock):
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
