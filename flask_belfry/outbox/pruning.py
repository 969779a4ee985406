"""Deletes old records of finalized jobs."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.outbox.models import JobBatch, JobLimit, JobRecord, UniquePeriod, WorkerProcess
from flask_belfry.outbox.states import JobState

BATCH_RECORDS = 5_000
# The most that one call deletes, so that its transaction stays short; the next call continues.
MAX_RECORDS = 200_000
WORKER_KEEP = timedelta(days=1)
PERIOD_KEEP = timedelta(hours=1)


def prune_records(
    session: Session, *, older_than: timedelta, failed_older_than: timedelta, limit: int = MAX_RECORDS
) -> int:
    """Delete finalized jobs with their attempts, finished batches and limit keys of which no job is left, and
    the periods of unique keys that have ended. The caller commits.

    The finalized jobs of a batch are kept while it is not finished, or while its failed jobs are kept, which can be
    retried: its `then` gets the counts of all of them.

    Args:
        older_than: how long completed and cancelled jobs are kept after they were finalized.
        failed_older_than: how long failed jobs are kept.
        limit: the most that one call deletes.

    Returns:
        the number of deleted records.
    """
    now = utc_now()
    is_old = sa.or_(
        sa.and_(
            JobRecord.state.in_([JobState.COMPLETED, JobState.CANCELLED]), JobRecord.finished_at < now - older_than
        ),
        sa.and_(JobRecord.state == JobState.FAILED, JobRecord.finished_at < now - failed_older_than),
    )
    has_kept_failures = sa.and_(JobBatch.failed > 0, JobBatch.finished_at >= now - failed_older_than)
    kept_batches = sa.select(JobBatch.id).where(sa.or_(JobBatch.finished_at.is_(None), has_kept_failures))
    is_kept = sa.and_(JobRecord.batch_id.is_not(None), JobRecord.batch_id.in_(kept_batches))
    deleted = 0
    while deleted < limit:
        ids = list(session.execute(sa.select(JobRecord.id).where(is_old, ~is_kept).limit(BATCH_RECORDS)).scalars())
        if not ids:
            break
        session.execute(sa.delete(JobRecord).where(JobRecord.id.in_(ids)), execution_options=_NO_SYNC)
        deleted += len(ids)
    has_jobs = sa.exists().where(JobRecord.batch_id == JobBatch.id)
    is_past = JobBatch.finished_at < now - max(older_than, failed_older_than), ~has_jobs
    session.execute(sa.delete(JobBatch).where(*is_past), execution_options=_NO_SYNC)
    is_used = sa.or_(
        sa.exists().where(JobRecord.limit_key == JobLimit.key), sa.func.coalesce(JobLimit.next_start_at > now, False)
    )
    session.execute(sa.delete(JobLimit).where(~is_used), execution_options=_NO_SYNC)
    # Not one that has just ended: a transaction may have read it as taken.
    ended = UniquePeriod.key.in_(
        sa.select(UniquePeriod.key).where(UniquePeriod.ends_at < now - PERIOD_KEEP).limit(limit)
    )
    session.execute(sa.delete(UniquePeriod).where(ended), execution_options=_NO_SYNC)
    gone = WorkerProcess.heartbeat_at < now - WORKER_KEEP
    session.execute(sa.delete(WorkerProcess).where(gone), execution_options=_NO_SYNC)
    return deleted


_NO_SYNC = {"synchronize_session": False}
