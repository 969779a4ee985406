"""Deletes old records of finalized jobs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.outbox.models import JobBatch, JobLimit, JobRecord, UniquePeriod, WorkerProcess
from flask_belfry.outbox.states import FINALIZED, JobState

PAGE_RECORDS = 5_000
# The most periods that one call deletes; the next call continues.
MAX_PERIODS = 200_000
WORKER_KEEP = timedelta(days=1)
PERIOD_KEEP = timedelta(hours=1)


def prune_records(session: Session, *, older_than: timedelta, failed_older_than: timedelta) -> int:
    """Delete what `prune_pages` does, and commit each page.

    Returns:
        the number of deleted records.
    """
    deleted = 0
    for count in prune_pages(session, older_than=older_than, failed_older_than=failed_older_than):
        session.commit()
        deleted += count
    return deleted


def prune_pages(session: Session, *, older_than: timedelta, failed_older_than: timedelta) -> Iterator[int]:
    """Delete finalized jobs with their attempts, finished batches and limit keys of which no job is left, the periods
    of unique keys that have ended, and processes that are gone.

    It deletes a page and returns the number of its records; the caller commits each page, so that others can write on
    SQLite in between. The finalized jobs of a batch are kept while it is not finished, or while its failed jobs are
    kept, which can be retried: its `then` gets the counts of all of them.

    Args:
        session: whose transaction.
        older_than: how long completed and cancelled jobs are kept after they were finalized.
        failed_older_than: how long failed jobs are kept.
    """
    now = utc_now()
    has_kept_failures = sa.and_(JobBatch.failed > 0, JobBatch.finished_at >= now - failed_older_than)
    kept_batches = sa.select(JobBatch.id).where(sa.or_(JobBatch.finished_at.is_(None), has_kept_failures))
    is_kept = sa.and_(JobRecord.batch_id.is_not(None), JobRecord.batch_id.in_(kept_batches))
    finished_at, is_failed = JobRecord.finished_at, JobRecord.state == JobState.FAILED
    is_old = sa.or_(
        sa.and_(is_failed, finished_at < now - failed_older_than), sa.and_(~is_failed, finished_at < now - older_than)
    )
    # In the order of the index, so that each page begins where the one before ended: those that are kept are passed
    # over once. SQLite would choose another index: it has no statistics.
    query = sa.select(JobRecord.id, finished_at).where(is_old, JobRecord.state.in_(FINALIZED), ~is_kept)
    query = query.with_hint(JobRecord, "INDEXED BY ix_job_records_finished_at", "sqlite")
    query = query.where(finished_at < now - min(older_than, failed_older_than)).order_by(finished_at)
    page = session.execute(query.limit(PAGE_RECORDS)).all()
    while page:
        ids = [row.id for row in page]
        session.execute(sa.delete(JobRecord).where(JobRecord.id.in_(ids)), execution_options=_NO_SYNC)
        yield len(ids)
        page = session.execute(query.where(finished_at >= page[-1].finished_at).limit(PAGE_RECORDS)).all()
    _prune_others(session, now, max(older_than, failed_older_than))
    yield 0


def _prune_others(session: Session, now: datetime, keep: timedelta) -> None:
    has_jobs = sa.exists().where(JobRecord.batch_id == JobBatch.id)
    session.execute(sa.delete(JobBatch).where(JobBatch.finished_at < now - keep, ~has_jobs), execution_options=_NO_SYNC)
    is_used = sa.or_(
        sa.exists().where(JobRecord.limit_key == JobLimit.key), sa.func.coalesce(JobLimit.next_start_at > now, False)
    )
    session.execute(sa.delete(JobLimit).where(~is_used), execution_options=_NO_SYNC)
    # Not one that has just ended: a transaction may have read it as taken.
    ended = UniquePeriod.key.in_(
        sa.select(UniquePeriod.key).where(UniquePeriod.ends_at < now - PERIOD_KEEP).limit(MAX_PERIODS)
    )
    session.execute(sa.delete(UniquePeriod).where(ended), execution_options=_NO_SYNC)
    gone = WorkerProcess.heartbeat_at < now - WORKER_KEEP
    session.execute(sa.delete(WorkerProcess).where(gone), execution_options=_NO_SYNC)


_NO_SYNC: dict[str, Any] = {"synchronize_session": False}
