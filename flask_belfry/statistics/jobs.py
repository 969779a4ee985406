"""The statistics of jobs: what ended in each minute, and the attempts that failed."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.db.columns import lowest_id
from flask_belfry.outbox import JobAttempt, JobRecord, JobState
from flask_belfry.outbox.models import AttemptOutcome
from flask_belfry.statistics.histograms import bucket_of
from flask_belfry.statistics.models import SYSTEM_ID, JobStatistics, JobTotals
from flask_belfry.statistics.roll_up import Source, add_source, rows_of_minutes
from flask_belfry.statistics.times import minute_in_sql, seconds_between

# An id and `finished_at` of one row are made one after the other.
ID_TOLERANCE = timedelta(seconds=5)
FAILED_OUTCOMES = (AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT)
NAMES = ("name", "queue")
_HAS_TIMES = (JobState.COMPLETED, JobState.FAILED)


class FinalizedJobs(Source):
    """The jobs that were finalized, by `finished_at`."""

    name = "jobs"
    model, totals = JobStatistics, JobTotals

    def event_at(self, session: Session, since: datetime, until: datetime, offset: int) -> datetime | None:
        return nth_time(session, JobRecord.finished_at, since, until, offset)

    def count(self, session: Session, since: datetime, until: datetime) -> list[dict[str, Any]]:
        times = _times(since, until)
        wait, run = (sa.case((times.c.state.in_(_HAS_TIMES), _bucket(times.c[name]))) for name in ("wait", "run"))
        key = times.c.minute, times.c.school_id, times.c.name, times.c.queue
        columns = *key, times.c.state, wait.label("wait"), run.label("run")
        query = sa.select(*columns, sa.func.count().label("jobs")).group_by(*columns)
        rows: list[tuple[tuple[Any, ...], str, int]] = []
        for row in session.execute(query):
            at = (row.minute, row.school_id, row.name, row.queue)
            rows.append((at, row.state.value, row.jobs))
            buckets = ("wait", row.wait), ("run", row.run)
            rows += [(at, f"{name}_{bucket}", row.jobs) for name, bucket in buckets if bucket is not None]
        return rows_of_minutes(NAMES, rows)


class FailedAttempts(Source):
    """The attempts that failed or timed out, by their ids."""

    name = "attempts"
    model, totals = JobStatistics, JobTotals

    def event_at(self, session: Session, since: datetime, until: datetime, offset: int) -> datetime | None:
        return attempt_at(session, since, until, offset)

    def count(self, session: Session, since: datetime, until: datetime) -> list[dict[str, Any]]:
        minute = minute_in_sql(JobAttempt.finished_at)
        key = minute, sa.func.coalesce(JobRecord.school_id, SYSTEM_ID), JobRecord.name, JobRecord.queue
        query = sa.select(*key, sa.func.count()).join(JobRecord, JobRecord.id == JobAttempt.job_id)
        query = query.where(*ended_between(since, until), JobAttempt.outcome.in_(FAILED_OUTCOMES)).group_by(*key)
        return rows_of_minutes(NAMES, ((tuple(at), "attempts", count) for *at, count in session.execute(query)))


def nth_time(session: Session, column: Any, since: datetime, until: datetime, offset: int) -> datetime | None:
    """Return `Source.event_at` of events whose time is an indexed column."""
    query = sa.select(column).where(column >= since, column < until).order_by(column)
    return session.execute(query.offset(offset).limit(1)).scalar()


def ended_between(since: datetime, until: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions for attempts of a time. Their ids sort by it, and `finished_at` has no index."""
    ids = JobAttempt.id >= lowest_id(since - ID_TOLERANCE), JobAttempt.id < lowest_id(until + ID_TOLERANCE)
    return *ids, JobAttempt.finished_at >= since, JobAttempt.finished_at < until


def attempt_at(session: Session, since: datetime, until: datetime, offset: int) -> datetime | None:
    """Return `Source.event_at` of attempts."""
    ids = JobAttempt.id >= lowest_id(since), JobAttempt.id < lowest_id(until)
    query = sa.select(JobAttempt.finished_at).where(*ids).order_by(JobAttempt.id)
    return session.execute(query.offset(offset).limit(1)).scalar()


def _times(since: datetime, until: datetime) -> sa.CTE:
    # A retry by a user clears `scheduled_at`, and an interruption has none: both set `enqueued_at`.
    again = sa.case((JobRecord.claims > 1, JobRecord.enqueued_at))
    later = sa.func.coalesce(JobRecord.scheduled_at, again)
    due_at = sa.case((later > JobRecord.created_at, later), else_=JobRecord.created_at)
    query = sa.select(
        minute_in_sql(JobRecord.finished_at).label("minute"),
        sa.func.coalesce(JobRecord.school_id, SYSTEM_ID).label("school_id"),
        JobRecord.name,
        JobRecord.queue,
        JobRecord.state,
        seconds_between(due_at, JobRecord.started_at).label("wait"),
        seconds_between(JobRecord.started_at, JobRecord.finished_at).label("run"),
    ).where(JobRecord.finished_at >= since, JobRecord.finished_at < until)
    # Otherwise each comparison with a bound would compute the seconds again.
    return query.cte("times").prefix_with("MATERIALIZED")


def _bucket(seconds: sa.ColumnElement[float]) -> sa.ColumnElement[int | None]:
    return sa.case((seconds.is_not(None), bucket_of(seconds)))


add_source(FinalizedJobs())
add_source(FailedAttempts())
