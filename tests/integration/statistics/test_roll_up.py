"""The statistics by minute and hour: they equal an obvious count of the history."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db, table_of
from flask_belfry.outbox import JobRecord, JobState
from flask_belfry.outbox.models import AttemptOutcome
from flask_belfry.outbox.registry import QUEUES
from flask_belfry.statistics import (
    ALL_ID,
    SYSTEM_ID,
    JobStatistics,
    JobTotals,
    QueueSample,
    Resolution,
    RollUp,
    roll_up_pages,
)
from flask_belfry.statistics.histograms import BOUNDS
from flask_belfry.statistics.reading import job_figures
from tests.clocks import one_pass, scheduler
from tests.statistics_factories import attempt, counted, record, together


def minutes(session: Session, column: str = "completed") -> dict[datetime, int]:
    rows = session.execute(
        sa.select(JobStatistics.at, getattr(JobStatistics, column)).where(
            JobStatistics.school_id == ALL_ID, JobStatistics.resolution == Resolution.MINUTE
        )
    )
    found = {row.at: row[1] for row in rows if row[1]}
    session.rollback()
    return found


def test_a_count_equals_an_obvious_one_in_python(session, clock):
    expected: Counter[tuple[Any, ...]] = Counter()
    chance = random.Random(4)
    for _ in range(300):
        at = utc_now() - timedelta(seconds=chance.uniform(0, 3 * 3600))
        name, queue = chance.choice([("test.act", "default"), ("test.other", "bulk")])
        school_id = chance.choice([None, 1, 2])
        state = chance.choice([JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED])
        wait, run = chance.uniform(0.001, 400), chance.uniform(0.001, 400)
        due_at = at - timedelta(seconds=wait + run)
        is_delayed = chance.random() < 0.5
        record(
            session,
            at,
            name=name,
            queue=queue,
            school_id=school_id,
            state=state,
            created_at=due_at - timedelta(hours=1) if is_delayed else due_at,
            scheduled_at=due_at if is_delayed else None,
            started_at=at - timedelta(seconds=run),
        )
        for id in (ALL_ID, school_id or SYSTEM_ID):
            key = at.replace(second=0, microsecond=0), id, name, queue
            expected[*key, state.value] += 1
            if state is not JobState.CANCELLED:
                expected[*key, f"wait_{_bucket(wait)}"] += 1
                expected[*key, f"run_{_bucket(run)}"] += 1
    session.commit()
    counted(session)
    assert _rows(session, Resolution.MINUTE) == expected
    hours: Counter[tuple[Any, ...]] = Counter()
    complete = session.scalar(sa.select(RollUp.complete_until).where(RollUp.name == "jobs"))
    for (at, *key), number in expected.items():
        if (hour := at.replace(minute=0)) + timedelta(hours=1) <= complete:
            hours[hour, *key] += number
    assert _rows(session, Resolution.HOUR) == hours
    counted(session)
    assert (_rows(session, Resolution.MINUTE), _rows(session, Resolution.HOUR)) == (expected, hours)


def _bucket(seconds: float) -> int:
    return next((number for number, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))


def _rows(session: Session, resolution: Resolution) -> Counter[tuple[Any, ...]]:
    found: Counter[tuple[Any, ...]] = Counter()
    for row in session.scalars(sa.select(JobStatistics).where(JobStatistics.resolution == resolution)):
        for column in JobStatistics.__table__.c:
            if not column.primary_key and (value := getattr(row, column.name)):
                found[row.at, row.school_id, row.name, row.queue, column.name] = value
    session.rollback()
    return found


def test_a_job_that_is_retried_still_counts_when_it_failed(session, clock):
    at = utc_now().replace(second=0) - timedelta(seconds=30)
    id, _ = [record(session, at, state=JobState.FAILED) for _ in range(2)]
    session.commit()
    counted(session)
    before = minutes(session, "failed")
    session.execute(sa.update(JobRecord).where(JobRecord.id == id).values(state=JobState.PENDING, finished_at=None))
    session.commit()
    counted(session)
    assert minutes(session, "failed") == before == {at.replace(second=0): 2}


def test_what_is_committed_late_is_counted(session, clock):
    at = utc_now() - timedelta(seconds=5)
    counted(session)
    clock.shift(110)
    counted(session)
    record(session, at)  # its transaction commits only now
    session.commit()
    clock.shift(60)
    counted(session)
    assert sum(minutes(session).values()) == 1


def test_a_downtime_is_made_up_for_page_by_page(session, clock, monkeypatch):
    monkeypatch.setattr("flask_belfry.statistics.roll_up.PAGE_EVENTS", 10)
    counted(session)
    began_at = utc_now()
    for number in range(100):
        record(session, began_at + timedelta(minutes=number))
    session.commit()
    clock.shift(timedelta(hours=3))
    assert sum(1 for _ in roll_up_pages(session)) >= 10
    assert sorted(minutes(session).values()) == [1] * 100
    hours = sa.select(sa.func.sum(JobStatistics.completed)).where(
        JobStatistics.school_id == SYSTEM_ID, JobStatistics.resolution == Resolution.HOUR
    )
    assert session.scalar(hours) == 100


def test_of_many_events_only_the_last_seconds_are_counted_before_their_minute_is_final(session, clock, monkeypatch):
    monkeypatch.setattr("flask_belfry.statistics.roll_up.BUSY_EVENTS", 3)
    clock.move_to("2030-05-06T10:00:30+00:00")
    counted(session)
    earlier, now = utc_now() - timedelta(seconds=50), utc_now()
    for at in (earlier, earlier, earlier, now):
        record(session, at)
    session.commit()
    counted(session)
    assert minutes(session) == {now.replace(second=0): 1}
    clock.shift(200)
    counted(session)
    assert minutes(session) == {earlier.replace(second=0): 3, now.replace(second=0): 1}


def test_two_schedulers_count_once(app, session, clock):
    for number in range(20):
        record(session, utc_now() - timedelta(seconds=number * 10))
    session.commit()
    together(app, lambda: counted(db.session()), times=3)
    assert sum(minutes(session).values()) == 20


def test_failed_attempts_are_counted_when_they_failed(session, clock):
    id = record(session, utc_now() - timedelta(minutes=1), queue="mail", school_id=2)
    attempt(session, id, first := utc_now() - timedelta(minutes=20))
    attempt(session, id, utc_now() - timedelta(minutes=20), outcome=AttemptOutcome.SNOOZED)
    attempt(session, id, second := utc_now() - timedelta(minutes=5), outcome=AttemptOutcome.TIMED_OUT)
    session.commit()
    counted(session)
    expected = {at.replace(second=0): 1 for at in (first, second)}
    assert minutes(session, "attempts") == expected
    (figures,) = job_figures(utc_now() - timedelta(hours=1), school_id=2)
    assert (figures.name, figures.queue, figures.completed, figures.attempts) == ("test.act", "mail", 1, 2)


def test_totals_have_each_final_minute_once(app, session, clock):
    failed = record(session, utc_now() - timedelta(days=3), state=JobState.FAILED)
    attempt(session, failed, utc_now() - timedelta(days=3))
    record(session, utc_now() - timedelta(hours=1), school_id=2)
    record(session, utc_now())  # in a minute that is not final
    session.commit()
    together(app, lambda: counted(db.session()), times=3)
    counted(session)
    table = table_of(JobTotals)
    totals = sa.select(table.c.completed, table.c.failed, table.c.attempts)
    assert session.execute(totals).all() == [(1, 1, 1)]
    clock.shift(200)
    counted(session)
    assert session.execute(totals).all() == [(2, 1, 1)]


def test_the_scheduler_counts(app, session):
    record(session, utc_now())
    session.commit()
    leader = scheduler(app)
    one_pass(leader)
    while leader.work_once():
        pass
    assert sum(minutes(session).values()) == 1
    assert {sample.queue for sample in session.scalars(sa.select(QueueSample))} == set(QUEUES)


def test_several_schedulers_add_each_minute_to_the_totals_once(app, session, clock, monkeypatch):
    monkeypatch.setattr("flask_belfry.statistics.roll_up.PAGE_EVENTS", 7)
    for number in range(30):
        record(session, utc_now() + timedelta(seconds=number * 20), school_id=number % 3 or None)
    session.commit()
    clock.shift(timedelta(minutes=15))
    together(app, lambda: counted(db.session()), times=3)
    assert session.scalar(sa.select(JobTotals.completed)) == 30


def test_neither_pruning_nor_a_retry_lowers_the_totals(session, clock):
    for _ in range(2):
        record(session, utc_now(), state=JobState.FAILED)
        session.commit()
        clock.shift(timedelta(minutes=4))
        counted(session)
        session.execute(sa.delete(JobStatistics))
        session.execute(sa.update(JobRecord).values(state=JobState.PENDING, finished_at=None))
        session.commit()
    counted(session)
    assert session.scalar(sa.select(JobTotals.failed)) == 2
