"""Schedulers for tests: one in the test's process, one pass at a time, and its effects in SQL."""

from __future__ import annotations

import threading

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.outbox import JobRecord, JobState, ScheduleTick, publisher
from flask_belfry.outbox.models import TickOutcome
from flask_belfry.scheduler import ScheduleEntry, schedule
from flask_belfry.scheduler.scheduler import BelfryScheduler

QUEUE = "rq:queue:default"
LOCK = "rq:scheduler_lock"
TIMERS = "rq:scheduler:scheduled_jobs"
ENTRY = ScheduleEntry("test.every_minute", job="test.act", every=60, catch_up_seconds=600)
TICK = f"schedule:{ENTRY.name}"


def scheduler(app: Flask, *entries: ScheduleEntry) -> BelfryScheduler:
    """Return a scheduler in this process, with `entries` or the one above."""
    pusher = publisher(app)
    return BelfryScheduler(app, pusher.connection, pusher, entries or [ENTRY])


def one_pass(scheduler: BelfryScheduler) -> None:
    """Make one pass that runs every part, as the first pass of a new process does."""
    scheduler._start_over()
    scheduler.work_once()
    db.session.rollback()


def settled_at_once(app: Flask, entry: ScheduleEntry, *, schedulers: int) -> int:
    """Return how many ticks of `entry` are settled by so many schedulers at the same moment."""
    settled: list[int] = []
    barrier = threading.Barrier(schedulers)

    def tick() -> None:
        with app.app_context():
            barrier.wait()
            settled.append(len(schedule.tick(db.session(), entry)))

    threads = [threading.Thread(target=tick) for _ in range(schedulers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(settled)


def outcomes(session: Session) -> list[TickOutcome]:
    """Return the outcomes of the ticks, the oldest first."""
    found = list(session.scalars(sa.select(ScheduleTick.outcome).order_by(ScheduleTick.tick_at)))
    session.rollback()
    return found


def jobs_of_schedule(session: Session) -> list[JobRecord]:
    """Return the jobs that schedules enqueued."""
    query = sa.select(JobRecord).where(JobRecord.subject_type == "schedule").order_by(JobRecord.id)
    return list(session.scalars(query))


def end_all(session: Session) -> None:
    """Complete every job."""
    session.execute(sa.update(JobRecord).values(state=JobState.COMPLETED, finished_at=utc_now()))
    session.commit()
