"""Scheduled notifications: each is sent once, at the time that its sender wrote, by its job or by the sweep."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from app import notifications
from app.accounts import Role
from app.notifications import (
    Content,
    Notification,
    NotificationType,
    ScheduledNotification,
    ScheduledState,
    Targets,
    scheduling,
)
from app.schools import School, default_school
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, InvalidInputError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.tenancy import Scope, use_scope
from flask_belfry.outbox import JobState, cancel, enqueue
from flask_belfry.scheduler import ScheduleEntry
from tests.clocks import one_pass, scheduler
from tests.job_records import count, read, state_of
from tests.reservation_factories import make_school, make_user

BERLIN = ZoneInfo("Europe/Berlin")
SWEEP = "notifications.sweep_scheduled"
CONTENT = Content(
    title="School trip",
    body="The bus leaves at eight.",
    type=NotificationType.GENERAL,
    targets=Targets(everyone=True),
    channels=("in_app",),
)


@pytest.fixture
def school(app: Flask, session: Session) -> School:
    """The school of the installation, in Berlin, with a user."""
    school = default_school()
    school.time_zone = "Europe/Berlin"
    session.commit()
    make_user(Role.STAFF)
    return school


@pytest.fixture
def scheduled(school: School, session: Session) -> Callable[..., ScheduledNotification]:
    """Schedules a notification for a local time, or in so many minutes, and commits."""

    def schedule(local_time: datetime | None = None, *, minutes: int = 10, **changes: Any) -> ScheduledNotification:
        local_time = local_time or local(minutes)
        row = notifications.schedule(replace(CONTENT, **changes), local_time, None, school.id)
        session.commit()
        return row

    return schedule


@pytest.fixture
def run(session: Session, work: Callable[[], None]) -> Callable[..., None]:
    """Enqueues a job and runs a worker."""

    def run(name: str, **args: object) -> None:
        enqueue(name, **args)
        session.commit()
        work()
        session.rollback()

    return run


def local(minutes: int) -> datetime:
    """The time in Berlin in so many minutes."""
    return (utc_now() + timedelta(minutes=minutes)).astimezone(BERLIN).replace(tzinfo=None, fold=0)


def sent(session: Session) -> int:
    """The number of notifications."""
    return count(session, Notification)


def problems(call: Callable[[], object]) -> dict[str, list[str]]:
    """The invalid fields that the call names."""
    with pytest.raises(InvalidInputError) as caught:
        call()
    db.session.rollback()
    return caught.value.fields


# ── Times ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("zone", "now", "written", "meant"),
    [
        ("Europe/Berlin", "2027-01-14T12:00", "2027-01-15T07:30", "2027-01-15T06:30"),
        ("Europe/Berlin", "2027-07-14T12:00", "2027-07-15T07:30", "2027-07-15T05:30"),
        # The morning after the clocks go forward, and the first valid time.
        ("Europe/Berlin", "2027-03-27T12:00", "2027-03-28T07:30", "2027-03-28T05:30"),
        ("Europe/Berlin", "2027-03-27T12:00", "2027-03-28T03:00", "2027-03-28T01:00"),
        # Twice: the first; and the morning after the clocks go back.
        ("Europe/Berlin", "2027-10-30T12:00", "2027-10-31T02:30", "2027-10-31T00:30"),
        ("Europe/Berlin", "2027-10-30T12:00", "2027-10-31T07:30", "2027-10-31T06:30"),
        ("Pacific/Kiritimati", "2027-01-14T12:00", "2027-01-15T07:30", "2027-01-14T17:30"),
        (None, "2027-01-14T12:00", "2027-01-15T07:30", "2027-01-15T07:30"),
    ],
)
def test_a_time_is_that_of_the_schools_zone(session, school, clock, zone, now, written, meant):
    clock.move_to(datetime.fromisoformat(now).replace(tzinfo=UTC))
    school.time_zone = zone
    row = notifications.schedule(CONTENT, datetime.fromisoformat(written), None, school.id)
    session.commit()
    session.refresh(row)
    assert row.send_at == datetime.fromisoformat(meant).replace(tzinfo=UTC)
    assert (row.local_time, row.time_zone) == (datetime.fromisoformat(written), zone or "UTC")
    assert read(session, row.job_id).scheduled_at == row.send_at


@pytest.mark.parametrize(
    ("now", "written", "problem"),
    [
        (
            "2027-03-27T12:00",
            "2027-03-28T02:30",
            "does not exist: the clocks of Europe/Berlin go forward then; 03:30 does",
        ),
        ("2027-03-27T12:00", "2027-03-27T13:00", "must be in the future"),
        ("2027-03-27T12:00", "2028-03-28T14:00", "must be within a year"),
        ("2027-03-27T12:00", "9999-12-31T23:59", "must be within a year"),
        (
            "2027-03-27T12:00",
            "2027-03-28T12:00+00:00",
            "must have no offset: it is in the time zone of the school",
        ),
    ],
)
def test_an_invalid_time_is_named_with_the_other_invalid_fields(session, school, clock, now, written, problem):
    clock.move_to(datetime.fromisoformat(now).replace(tzinfo=UTC))
    untitled = replace(CONTENT, title=" ")
    found = problems(lambda: notifications.schedule(untitled, datetime.fromisoformat(written), None, school.id))
    assert found == {"local_time": [problem], "title": ["This field is required."]}


def test_it_must_not_expire_before_it_is_sent(session, school):
    early = replace(CONTENT, expires_at=utc_now() + timedelta(minutes=5))
    found = problems(lambda: notifications.schedule(early, local(10), None, school.id))
    assert found == {"expires_at": ["must be after the time at which it is sent"]}


def test_a_disabled_school_and_an_unknown_one_schedule_nothing(session, school):
    with pytest.raises(NotFoundError):
        notifications.schedule(CONTENT, local(10), None, 0)
    school.disabled_at = utc_now()
    with pytest.raises(ConflictError, match="is disabled: it sends no notifications"):
        notifications.schedule(CONTENT, local(10), None, school.id)


# ── Sent once ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("now", "written", "meant"),
    [
        ("2027-03-27T20:00", "2027-03-28T07:30", "2027-03-28T05:30"),
        ("2027-10-30T20:00", "2027-10-31T07:30", "2027-10-31T06:30"),
    ],
)
def test_its_job_sends_it_at_its_time_also_when_the_clocks_were_changed(
    app, session, clock, scheduled, work, now, written, meant
):
    clock.move_to(datetime.fromisoformat(now).replace(tzinfo=UTC))
    row = scheduled(datetime.fromisoformat(written))
    ours, due = scheduler(app), datetime.fromisoformat(meant).replace(tzinfo=UTC)
    clock.move_to(due - timedelta(seconds=2))
    one_pass(ours)
    work()
    assert sent(session) == 0
    clock.move_to(due)
    one_pass(ours)
    work()
    assert sent(session) == 1
    session.refresh(row)
    notification = session.scalars(sa.select(Notification)).one()
    assert (row.state, row.notification_id) == (ScheduledState.SENT, notification.id)
    assert (notification.title, notification.body, notification.school_id) == (row.title, row.body, row.school_id)
    assert Targets.from_json(notification.targets) == CONTENT.targets


def test_the_sweep_sends_it_when_no_scheduler_ran_and_its_job_finds_it_sent(app, session, clock, scheduled, run, work):
    row = scheduled()
    clock.shift(timedelta(minutes=11))
    run(SWEEP)
    assert sent(session) == 1
    one_pass(scheduler(app))
    work()
    assert state_of(session, row.job_id) is JobState.COMPLETED
    assert sent(session) == 1
    assert read(session, row.job_id).result == {"notification_id": None}


def test_the_scheduler_enqueues_the_sweep(app, session, clock, scheduled, work):
    row = scheduled(minutes=1)
    cancel([row.job_id])
    session.commit()
    entry = ScheduleEntry(SWEEP, job=SWEEP, every="SCHEDULED_NOTIFICATIONS_SWEEP_SECONDS")
    ours = scheduler(app, entry)
    one_pass(ours)
    clock.shift(300)
    one_pass(ours)
    work()
    assert sent(session) == 1


def test_it_is_sent_once_when_redis_was_emptied(app, session, clock, scheduled, broker, run, work):
    scheduled()
    broker.flushall()
    clock.shift(timedelta(minutes=11))
    one_pass(scheduler(app))
    work()
    assert sent(session) == 1
    run(SWEEP)
    assert sent(session) == 1


def test_two_sweeps_and_its_job_at_the_same_moment_send_it_once(app, session, clock, scheduled):
    row_id = scheduled().id
    session.rollback()
    clock.shift(timedelta(minutes=11))
    barrier = threading.Barrier(3)

    def send(_: int) -> str | None:
        with app.app_context():
            barrier.wait(10)
            notification_id = notifications.send_due(row_id)
            db.session.commit()
            return notification_id

    with ThreadPoolExecutor(3) as threads:
        ids = list(threads.map(send, range(3)))
    assert sorted(id is None for id in ids) == [False, True, True]
    assert sent(session) == 1


def test_a_change_while_it_is_being_sent_fails(app, session, clock, scheduled):
    row_id = scheduled().id
    session.rollback()
    clock.shift(timedelta(minutes=11))
    is_locked, is_asked = threading.Event(), threading.Event()

    def send() -> None:
        with app.app_context():
            notifications.send_due(row_id)
            is_locked.set()
            is_asked.wait(10)
            db.session.commit()

    with ThreadPoolExecutor(1) as threads:
        sending = threads.submit(send)
        assert is_locked.wait(10)
        is_asked.set()
        with pytest.raises(ConflictError, match="already sent"):
            notifications.reschedule(row_id, content=replace(CONTENT, title="Too late"))
        session.rollback()
        sending.result()
    assert session.scalars(sa.select(Notification.title)).all() == ["School trip"]
    with pytest.raises(ConflictError, match="already sent"):
        notifications.cancel_scheduled(row_id)


def test_a_job_that_runs_while_the_time_is_changed_sends_nothing(app, session, clock, scheduled, work):
    row = scheduled()
    old_job = row.job_id
    clock.shift(timedelta(minutes=10))
    one_pass(scheduler(app))
    session.refresh(row)
    notifications.reschedule(row.id, local_time=local(30))
    is_asked = threading.Event()

    def send() -> str | None:
        with app.app_context():
            is_asked.set()
            notification_id = notifications.send_due(row_id)
            db.session.commit()
            return notification_id

    row_id = row.id
    with ThreadPoolExecutor(1) as threads:
        sending = threads.submit(send)
        assert is_asked.wait(10)
        session.commit()
        assert sending.result() is None
    work()
    assert sent(session) == 0
    assert state_of(session, old_job) is JobState.CANCELLED


# ── Changes ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_earlier_and_a_later_time_replace_its_job(app, session, clock, scheduled, work):
    row = scheduled(minutes=60)
    for minutes in (90, 30):
        old = row.job_id
        notifications.reschedule(row.id, local_time=local(minutes))
        session.commit()
        assert state_of(session, old) is JobState.CANCELLED
        session.refresh(row)
        assert read(session, row.job_id).scheduled_at == row.send_at
    ours = scheduler(app)
    for minutes in (30, 90):
        clock.shift(timedelta(minutes=minutes))
        one_pass(ours)
        work()
        assert sent(session) == 1


def test_a_change_of_the_text_keeps_the_job(session, scheduled):
    row = scheduled()
    job_id = row.job_id
    notifications.reschedule(row.id, content=replace(CONTENT, title="Trip is off", is_critical=True))
    session.commit()
    session.refresh(row)
    assert (row.title, row.is_critical, row.job_id) == ("Trip is off", True, job_id)
    assert state_of(session, job_id) is JobState.SCHEDULED


def test_an_invalid_change_changes_nothing(session, scheduled):
    row = scheduled()
    before = row.send_at
    past = local(-1)
    assert problems(lambda: notifications.reschedule(row.id, local_time=past)) == {
        "local_time": ["must be in the future"]
    }
    assert "body" in problems(lambda: notifications.reschedule(row.id, content=replace(CONTENT, body="")))
    session.refresh(row)
    assert (row.send_at, row.body) == (before, CONTENT.body)


def test_a_cancelled_one_is_not_sent_and_can_not_be_changed(app, session, clock, scheduled, run):
    row = scheduled()
    notifications.cancel_scheduled(row.id)
    session.commit()
    assert state_of(session, row.job_id) is JobState.CANCELLED
    clock.shift(timedelta(minutes=11))
    one_pass(scheduler(app))
    run(SWEEP)
    assert sent(session) == 0
    for change in (notifications.cancel_scheduled, notifications.reschedule):
        with pytest.raises(ConflictError, match="already cancelled"):
            change(row.id)
        session.rollback()


def test_another_schools_row_does_not_exist(session, scheduled):
    row_id = scheduled().id
    with use_scope(Scope(make_school().id)):
        for call in (notifications.get_scheduled, notifications.cancel_scheduled, notifications.reschedule):
            with pytest.raises(NotFoundError):
                call(row_id)
            session.rollback()
        assert notifications.page_scheduled().items == []
        assert notifications.send_due(row_id) is None


def test_those_that_wait_are_listed_by_time_the_next_one_first(session, scheduled):
    rows = {minutes: scheduled(minutes=minutes).id for minutes in (30, 10, 20)}
    notifications.cancel_scheduled(rows[20])
    session.commit()
    page = notifications.page_scheduled(state=ScheduledState.SCHEDULED)
    assert [row.id for row in page.items] == [rows[10], rows[30]]
    page = notifications.page_scheduled(limit=2)
    assert [row.id for row in page.items] == [rows[30], rows[20]]
    page = notifications.page_scheduled(limit=2, cursor=page.next_cursor)
    assert [row.id for row in page.items] == [rows[10]]


# ── Time zones that change ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("zone", "hours"), [("Europe/London", 1), ("Europe/Athens", -1)])
def test_the_sweep_follows_the_zone_of_the_school(app, session, clock, school, scheduled, run, work, zone, hours):
    clock.move_to(datetime(2027, 1, 14, 12, tzinfo=UTC))
    row = scheduled(datetime.fromisoformat("2027-01-15T07:30"))
    before, old_job = row.send_at, row.job_id
    school.time_zone = zone
    session.commit()
    run(SWEEP)
    session.refresh(row)
    assert (row.send_at - before, row.time_zone) == (timedelta(hours=hours), zone)
    assert row.local_time == datetime.fromisoformat("2027-01-15T07:30")
    assert state_of(session, old_job) is JobState.CANCELLED
    clock.move_to(row.send_at)
    one_pass(scheduler(app))
    work()
    assert sent(session) == 1


def test_its_job_follows_the_zone_too_when_it_comes_before_the_sweep(app, session, clock, school, scheduled, work):
    clock.move_to(datetime(2027, 1, 14, 12, tzinfo=UTC))
    row = scheduled(datetime.fromisoformat("2027-01-15T07:30"))
    school.time_zone = "Europe/London"
    session.commit()
    ours = scheduler(app)
    for hours in (0, 1):
        assert sent(session) == 0
        clock.move_to(datetime(2027, 1, 15, 6 + hours, 30, tzinfo=UTC))
        one_pass(ours)
        work()
    assert sent(session) == 1
    session.refresh(row)
    assert row.send_at == datetime(2027, 1, 15, 7, 30, tzinfo=UTC)


def test_a_time_that_does_not_exist_in_the_new_zone_is_moved_past_the_gap(session, clock, school, scheduled, run):
    clock.move_to(datetime(2027, 3, 27, 12, tzinfo=UTC))
    school.time_zone = "UTC"
    row = scheduled(datetime.fromisoformat("2027-03-28T02:30"))
    school.time_zone = "Europe/Berlin"
    session.commit()
    run(SWEEP)
    session.refresh(row)
    assert row.send_at.astimezone(BERLIN).replace(tzinfo=None) == datetime.fromisoformat("2027-03-28T03:30")


# ── What can not be sent ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_disabled_school_sends_nothing_and_the_row_says_why(session, clock, school, scheduled, run):
    row = scheduled()
    school.disabled_at = utc_now()
    session.commit()
    clock.shift(timedelta(minutes=11))
    run(SWEEP)
    session.refresh(row)
    reason = f"{school.name} is disabled: it sends no notifications."
    assert (row.state, row.reason) == (ScheduledState.CANCELLED, reason)
    assert sent(session) == 0


def test_one_that_has_expired_by_then_is_not_sent(session, clock, scheduled, run):
    row = scheduled(expires_at=utc_now() + timedelta(hours=1))
    clock.shift(timedelta(hours=2))
    run(SWEEP)
    session.refresh(row)
    assert (row.state, row.reason) == (ScheduledState.CANCELLED, "It expired before it was sent.")


def test_targets_that_were_deleted_are_left_out(session, clock, scheduled, run):
    first, second = make_user(), make_user()
    left, alone = scheduled(targets=Targets(users=(first.id, second.id))), scheduled(targets=Targets(users=(first.id,)))
    session.delete(first)
    session.commit()
    clock.shift(timedelta(minutes=11))
    run(SWEEP)
    session.refresh(left)
    session.refresh(alone)
    assert (left.state, alone.state) == (ScheduledState.SENT, ScheduledState.CANCELLED)
    assert Targets.from_json(session.scalars(sa.select(Notification.targets)).one()).users == (second.id,)
    assert alone.reason == "Some fields are invalid. · targets: Choose who gets it."


@pytest.mark.parametrize("change", [{"active": False}, {"role": Role.MEMBER}])
def test_the_school_sends_for_a_user_who_may_not_any_more(session, clock, school, run, change):
    active, former = make_user(Role.STAFF), make_user(Role.STAFF)
    for sender in (active, former):
        notifications.schedule(CONTENT, local(10), sender, school.id)
    for name, value in change.items():
        setattr(former, name, value)
    session.commit()
    clock.shift(timedelta(minutes=11))
    run(SWEEP)
    senders = session.scalars(sa.select(Notification.sender_id).order_by(Notification.sender_id.is_(None))).all()
    assert senders == [active.id, None]


def test_one_that_fails_does_not_stop_the_others(session, clock, scheduled, run, monkeypatch):
    rows = [scheduled(minutes=minutes, title=f"Number {minutes}") for minutes in (1, 2, 3)]
    send = scheduling.send

    def fail(content: Content, *args: Any) -> Notification:
        if content.title == "Number 2":
            send(content, *args)
            raise ZeroDivisionError
        return send(content, *args)

    monkeypatch.setattr(scheduling, "send", fail)
    clock.shift(timedelta(minutes=11))
    run(SWEEP)
    for row in rows:
        session.refresh(row)
    assert [row.state for row in rows] == [ScheduledState.SENT, ScheduledState.SCHEDULED, ScheduledState.SENT]
    assert sent(session) == 2
    monkeypatch.undo()
    run(SWEEP)
    assert sent(session) == 3


def test_a_job_that_was_cancelled_on_the_page_of_jobs_does_not_cancel_it(session, clock, scheduled, run):
    row = scheduled()
    cancel([row.job_id])
    session.commit()
    clock.shift(timedelta(minutes=11))
    run(SWEEP)
    assert sent(session) == 1
