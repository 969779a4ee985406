"""Schedules that users make: they tick once like those of the code, without a restart, and no deploy touches them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa

from app.accounts import Role, User
from flask_belfry.changes import Actor, use_actor
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError
from flask_belfry.db import db
from flask_belfry.execution import claim, job
from flask_belfry.operations import custom_schedules, periodic
from flask_belfry.operations.custom_schedules import Draft
from flask_belfry.outbox import CustomSchedule, JobRecord, Schedule, ScheduleTick
from flask_belfry.outbox.models import TickOutcome
from flask_belfry.outbox.registry import forget
from flask_belfry.scheduler import ScheduleEntry, ScheduleError, schedule
from flask_belfry.scheduler import scheduler as clocks
from flask_belfry.scheduler.custom import CustomEntry, read_entries
from tests.clocks import (
    ENTRY,
    LOCK,
    QUEUE,
    TIMERS,
    end_all,
    jobs_of_schedule,
    one_pass,
    outcomes,
    scheduler,
    settled_at_once,
)
from tests.forks import exit_status, fork
from tests.job_records import count, waits_for_lock
from tests.reservation_factories import make_school, make_user
from tests.servers import wait_until

NAME = "custom.minutely"
TICK = f"schedule:{NAME}"


def make(name: str = "minutely", owner: User | None = None, **values: Any) -> CustomSchedule:
    """A schedule of `test.act` each minute, of the system unless there is an owner."""
    draft = Draft(**{"name": name, "job": "test.act", "every_seconds": 60, **values})
    with use_actor(Actor(owner.id if owner else None)):
        return custom_schedules.create(draft)


def ticks_of(session, name: str = NAME) -> list[TickOutcome]:
    query = sa.select(ScheduleTick.outcome).where(ScheduleTick.schedule == name).order_by(ScheduleTick.tick_at)
    found = list(session.scalars(query))
    session.rollback()
    return found


def timer(broker, name: str = TICK) -> float | None:
    return broker.zscore(TIMERS, name)


def test_a_new_one_ticks_without_a_restart_with_its_arguments_for_its_owner_and_school(app, session, clock, broker):
    ours = scheduler(app)
    one_pass(ours)
    owner, school = make_user(Role.ADMIN), make_school()
    make(owner=owner, args={"ticket_id": 7}, school_id=school.id)
    ours.work_once()
    assert timer(broker) == (utc_now().replace(second=0) + timedelta(minutes=1)).timestamp()
    for _ in range(3):
        clock.shift(60)
        ours.work_once()
        ours.work_once()
        end_all(session)
    assert ticks_of(session) == [TickOutcome.ENQUEUED] * 3
    jobs = [record for record in jobs_of_schedule(session) if record.subject_id == NAME]
    assert [(record.name, record.args) for record in jobs] == [("test.act", {"ticket_id": 7})] * 3
    assert {(record.user_id, record.school_id) for record in jobs} == {(owner.id, school.id)}
    assert ticks_of(session, ENTRY.name) == [TickOutcome.ENQUEUED] * 3


def test_it_ticks_once_by_many_schedulers_at_the_same_moment(app, session, clock):
    make()
    (entry,) = read_entries(session)
    clock.shift(60)
    assert settled_at_once(app, entry, schedulers=8) == 1
    assert len(jobs_of_schedule(session)) == 1


@pytest.fixture
def believers(app, session, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Two processes with schedulers of a code without a schedule, that both believe that they hold the lock."""
    monkeypatch.setattr(clocks, "PASS_SECONDS", 0.02)
    monkeypatch.setattr(clocks, "REFRESH_SECONDS", 0.3)
    monkeypatch.setattr(clocks.BelfryScheduler, "acquire_lock", lambda self: True)
    session.rollback()
    pids = [fork(lambda: scheduler(app, ENTRY).run()) for _ in range(2)]
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    assert [exit_status(pid) for pid in pids] == [0, 0]


def test_two_real_schedulers_and_a_wiped_redis_repeat_and_lose_none(app, session, broker, believers):
    now = utc_now()
    row = {"name": "custom.often", "job_name": "test.act", "args": {}, "zone": "UTC", "every_seconds": 1}
    session.add(CustomSchedule(**row, created_at=now, first_tick_at=now))
    session.commit()

    def has_ticked(times: int) -> bool:
        while ids := broker.lpop(QUEUE, 100):
            claims = claim.claim(session, [id.decode() for id in ids], "w")
            claim.complete(session, [(item, None) for item in claims])
            session.commit()
        return count(session, ScheduleTick, ScheduleTick.schedule == "custom.often") >= times

    wait_until(lambda: has_ticked(2), seconds=30)
    broker.flushall()
    wait_until(lambda: has_ticked(5), seconds=30)
    found = session.execute(
        sa.select(ScheduleTick.tick_at, ScheduleTick.outcome, ScheduleTick.job_id)
        .where(ScheduleTick.schedule == "custom.often")
        .order_by(ScheduleTick.tick_at)
    ).all()
    jobs = set(session.scalars(sa.select(JobRecord.id).where(JobRecord.subject_id == "custom.often")))
    session.rollback()
    assert {later.tick_at - tick.tick_at for tick, later in pairwise(found)} == {timedelta(seconds=1)}
    # Each job is of one tick; one that was still live when the next tick came is of both.
    assert jobs >= {tick.job_id for tick in found if tick.outcome is TickOutcome.ENQUEUED}
    assert len(jobs) <= len(found) + 1  # they go on


def test_a_deploy_neither_removes_nor_changes_it_nor_can_take_its_name(app, session, clock, broker):
    before = scheduler(app)
    one_pass(before)
    row = make()
    kept = {column.key: getattr(row, column.key) for column in sa.inspect(CustomSchedule).columns}
    clock.shift(1)
    after = scheduler(app, ScheduleEntry("test.other", job="test.act", every=3600))
    before.remove_lock()
    broker.flushall()
    one_pass(after)
    assert session.scalars(sa.select(Schedule.name)).all() == ["test.other"]
    row = session.get_one(CustomSchedule, NAME)
    assert {column.key: getattr(row, column.key) for column in sa.inspect(CustomSchedule).columns} == kept
    session.rollback()
    clock.shift(59)
    after.work_once()
    assert ticks_of(session) == [TickOutcome.ENQUEUED]
    with pytest.raises(ScheduleError, match=r"names that begin with 'custom\.' belong to users"):
        schedule.check([ScheduleEntry(NAME, job="test.act", every=60)], app.config)


def test_a_changed_timing_begins_with_its_next_tick_and_a_deleted_one_ends(app, session, clock, broker):
    ours = scheduler(app)
    one_pass(ours)
    make(every_seconds=3600)
    ours.work_once()
    clock.shift(120)
    custom_schedules.update(NAME, Draft(job="test.act", every_seconds=60, args={"ticket_id": 1}))
    ours.work_once()
    # The new timing would have had two ticks since its creation.
    assert ticks_of(session) == []
    next_minute = utc_now().replace(second=0) + timedelta(minutes=1)
    assert timer(broker) == next_minute.timestamp()
    clock.move_to(next_minute)
    ours.work_once()
    assert ticks_of(session) == [TickOutcome.ENQUEUED]
    session.expire_all()
    last = periodic.periodic_job(periodic.get_entry(NAME)).last_job
    assert last is not None
    assert last.args == {"ticket_id": 1}
    # Other arguments alone lose no tick.
    end_all(session)
    clock.shift(60)
    custom_schedules.update(NAME, Draft(job="test.act", every_seconds=60, args={"ticket_id": 2}))
    ours.work_once()
    assert ticks_of(session) == [TickOutcome.ENQUEUED] * 2
    custom_schedules.delete(NAME)
    ours.work_once()
    assert timer(broker) is None
    clock.shift(60)
    ours.work_once()
    assert len(ticks_of(session)) == 2


def test_a_scheduler_that_read_it_before_a_change_ticks_it_as_it_is(session, clock):
    make(args={"ticket_id": 1})
    (read_before,) = read_entries(session)
    clock.shift(60)
    custom_schedules.update(NAME, Draft(job="test.act", every_seconds=60, args={"ticket_id": 2}))
    assert len(schedule.tick(session, read_before)) == 1
    assert [record.args for record in jobs_of_schedule(session)] == [{"ticket_id": 2}]
    custom_schedules.delete(NAME)
    clock.shift(60)
    assert schedule.tick(session, read_before) == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_change_waits_for_a_tick_that_has_begun(app, session, clock, monkeypatch):
    make()
    (entry,) = read_entries(session)
    clock.shift(60)
    problem, changes = CustomEntry.problem, []

    def change() -> None:
        with app.app_context():
            custom_schedules.update(NAME, Draft(job="test.act", every_seconds=3600))

    def change_meanwhile(ticking: CustomEntry) -> str | None:
        if not changes:  # the change looks for problems too
            changes.append(threading.Thread(target=change))
            changes[0].start()
            with db.engine.connect() as other:
                wait_until(lambda: waits_for_lock(other), seconds=10)
        return problem(ticking)

    monkeypatch.setattr(CustomEntry, "problem", change_meanwhile)
    assert len(schedule.tick(session, entry)) == 1
    changes[0].join()
    session.rollback()
    row = session.get_one(CustomSchedule, NAME)
    assert (row.every_seconds, row.last_tick_at, row.first_tick_at) == (3600, None, utc_now())


def test_a_paused_one_lets_its_ticks_pass_and_catches_up_on_nothing(app, session, clock):
    make()
    periodic.pause(NAME)
    ours = scheduler(app)
    one_pass(ours)
    clock.shift(60)
    one_pass(ours)
    assert ticks_of(session) == [TickOutcome.PAUSED]
    clock.shift(60)
    periodic.resume(NAME)
    assert ticks_of(session) == [TickOutcome.PAUSED] * 2
    clock.shift(60)
    one_pass(ours)
    assert ticks_of(session) == [*[TickOutcome.PAUSED] * 2, TickOutcome.ENQUEUED]


def test_a_clock_that_was_ahead_does_not_silence_it(app, session, clock):
    make()
    ours = scheduler(app)
    for seconds in (86_400, -86_400, 60):
        clock.shift(seconds)
        one_pass(ours)
        end_all(session)
    # One a day ahead, none while the clock is set back, and the next minute's.
    assert len([record for record in jobs_of_schedule(session) if record.subject_id == NAME]) == 2
    assert session.get_one(CustomSchedule, NAME).last_tick_at == utc_now().replace(second=0)


def test_one_whose_job_the_running_code_does_not_have_waits_and_holds_up_no_other(app, session, clock, broker):
    job("test.of_next_version")(lambda session: None)
    make(job="test.of_next_version")
    forget("test.of_next_version")
    ours = scheduler(app)
    one_pass(ours)
    clock.shift(60)
    ours.work_once()
    assert outcomes(session) == [TickOutcome.ENQUEUED]
    assert ticks_of(session) == []
    assert timer(broker) == pytest.approx(utc_now().timestamp() + clocks.REFRESH_SECONDS)
    assert (
        periodic.periodic_job(periodic.get_entry(NAME)).problem == "The running code has no job test.of_next_version."
    )
    with pytest.raises(ConflictError, match="has no job"):
        periodic.run_now(NAME)
    session.rollback()
    try:
        job("test.of_next_version")(lambda session: None)
        clock.shift(clocks.REFRESH_SECONDS)
        ours.work_once()
        assert ticks_of(session) == [TickOutcome.ENQUEUED]
    finally:
        forget("test.of_next_version")


@pytest.mark.parametrize("values", [{"active": False}, {"role": Role.STAFF}, {"confirmed_at": None}])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_one_whose_owner_may_no_longer_make_schedules_waits_until_another_admin_saves_it(app, session, clock, values):
    make_user(Role.ADMIN)
    owner = make_user(Role.ADMIN)
    make(owner=owner)
    ours = scheduler(app)
    one_pass(ours)
    for column, value in values.items():
        setattr(owner, column, value)
    session.commit()
    clock.shift(60)
    ours.work_once()
    assert ticks_of(session) == []
    other = make_user(Role.ADMIN)
    with use_actor(Actor(other.id)):
        custom_schedules.update(NAME, Draft(job="test.act", every_seconds=60))
    ours.work_once()
    assert ticks_of(session) == []  # what was due before is not caught up on
    clock.shift(60)
    ours.work_once()
    assert ticks_of(session) == [TickOutcome.ENQUEUED]
    assert {record.user_id for record in jobs_of_schedule(session) if record.subject_id == NAME} == {other.id}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"cron": "61 * * * *", "every_seconds": None}, "cron must have five fields"),
        ({"cron": "0 0 31 2 *", "every_seconds": None}, "cron must have five fields"),
        ({"cron": "0 0 * * *", "every_seconds": None, "zone": "Mars/Base"}, "is not a time zone"),
        ({"args": {"gone": 1}}, "gone: is not an argument"),
        ({"job_name": "mail.deliver", "args": {"email_id": "x"}}, "runs many records at once"),
    ],
)
def test_a_row_that_later_code_would_refuse_is_shown_with_the_reason_and_stops_no_pass(
    app, session, clock, broker, values, reason
):
    make()
    session.execute(sa.update(CustomSchedule).values(**values))
    session.commit()
    ours = scheduler(app)
    one_pass(ours)
    clock.shift(86_400)
    one_pass(ours)
    assert TickOutcome.ENQUEUED not in ticks_of(session)
    assert TickOutcome.ENQUEUED in ticks_of(session, ENTRY.name)
    assert timer(broker) is not None
    assert reason in (periodic.periodic_job(periodic.get_entry(NAME)).problem or "")


def test_a_pass_reads_them_with_one_query_and_sets_only_what_changed(app, session, clock, broker, statements):
    ours = scheduler(app)
    one_pass(ours)
    for number in range(3):
        make(f"number-{number}")
    ours.work_once()
    broker.zadd(TIMERS, {"schedule:custom.number-0": utc_now().timestamp() + 5})
    statements.clear()
    ours.work_once()
    assert len([statement for statement in statements if "custom_schedules" in statement]) == 1
    assert timer(broker, "schedule:custom.number-0") == utc_now().timestamp() + 5
    assert broker.exists(LOCK)
