"""Batches for operators: a list, the number of jobs in each state, cancel and retry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from flask_belfry import outbox
from flask_belfry.changes import Subject
from flask_belfry.changes.host import current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import NotFoundError
from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page, page_by_key
from flask_belfry.outbox import FINALIZED, JobBatch, JobRecord, JobState

MAX_ERROR_GROUPS = 10
# The time whose ended jobs make the pace of a batch.
PACE_TIME = timedelta(minutes=5)
MAX_MESSAGE_CHARACTERS = 200


def list_batches(
    *, is_open: bool | None = None, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[JobBatch]:
    """Return a page of batches, newest first; with `is_open`, of those that are not finished, or only of those."""
    query = sa.select(JobBatch)
    if is_open is not None:
        query = query.where(JobBatch.finished_at.is_(None) if is_open else JobBatch.finished_at.is_not(None))
    return page_by_key(db.session(), query, (JobBatch.id,), limit=limit, cursor=cursor)


def get_batch(batch_id: str) -> JobBatch:
    """Return the batch with this id. Raises NotFoundError."""
    id = as_uuid_text(batch_id)
    record = db.session.get(JobBatch, id) if id else None
    if record is None:
        raise NotFoundError("This batch does not exist, was pruned, or is visible to admins only.")
    return record


def job_counts(batches: Sequence[JobBatch]) -> dict[str, Counter[JobState]]:
    """Return the number of jobs in each state, by the ids of the batches."""
    open_ids = _open_ids(batches)
    # Without an open one, SQLite would read all jobs of the scope.
    rows = db.session.execute(_count_of_states(open_ids)).all() if open_ids else []
    return _job_counts(batches, rows)


@dataclass(frozen=True)
class Pace:
    """How many jobs of an open batch end per minute, and how many seconds the others take at this rate."""

    per_minute: float
    seconds_left: float | None


def counts_and_paces(batches: Sequence[JobBatch]) -> tuple[dict[str, Counter[JobState]], dict[str, Pace]]:
    """Return the number of jobs in each state, and the pace of the open batches in the last PACE_TIME, by their ids."""
    open_ids, now = _open_ids(batches), utc_now()
    if not open_ids:
        return job_counts(batches), {}
    has_ended = JobRecord.batch_id.in_(open_ids), JobRecord.finished_at >= now - PACE_TIME
    ended = sa.select(JobRecord.batch_id, sa.null(), sa.func.count()).where(*has_ended).group_by(JobRecord.batch_id)
    # SQLite would prefer the index of batches, and read each job of them.
    ended = ended.with_hint(JobRecord, "INDEXED BY ix_job_records_finished_at", "sqlite")
    rows = db.session.execute(_count_of_states(open_ids).union_all(ended)).all()
    counts = _job_counts(batches, [row for row in rows if row.state is not None])
    lately = {row.batch_id: row.jobs for row in rows if row.state is None}
    created = {batch.id: batch.created_at for batch in batches}
    return counts, {id: _pace(lately.get(id, 0), now - created[id], counts[id]) for id in open_ids}


def _open_ids(batches: Sequence[JobBatch]) -> list[str]:
    return [batch.id for batch in batches if batch.finished_at is None]


def _count_of_states(ids: Sequence[str]) -> sa.Select[str | None, JobState, int]:
    query = sa.select(JobRecord.batch_id, JobRecord.state, sa.func.count().label("jobs"))
    return query.where(JobRecord.batch_id.in_(ids)).group_by(JobRecord.batch_id, JobRecord.state)


def _job_counts(batches: Sequence[JobBatch], rows: Sequence[Any]) -> dict[str, Counter[JobState]]:
    counts: dict[str, Counter[JobState]] = {batch.id: Counter() for batch in batches}
    for row in rows:
        counts[row.batch_id][row.state] = row.jobs
    # Those of a finished batch are in its row.
    for batch in batches:
        if batch.finished_at is not None:
            values = {"completed": batch.completed, "failed": batch.failed, "cancelled": batch.cancelled}
            counts[batch.id].update({JobState(name): count for name, count in values.items() if count})
    return counts


def _pace(ended: int, age: timedelta, counts: Counter[JobState]) -> Pace:
    minutes = max(min(PACE_TIME, age) / timedelta(minutes=1), 1 / 60)
    left = counts.total() - sum(counts[state] for state in FINALIZED)
    per_minute = ended / minutes
    return Pace(per_minute, 60 * left / per_minute if per_minute else None)


@dataclass(frozen=True)
class ErrorGroup:
    """The failed jobs of a batch that have the same type of error, and the beginning of one of its messages."""

    error_type: str
    jobs: int
    message: str | None


def errors_of(batch: JobBatch) -> list[ErrorGroup]:
    """Return the most frequent types of error of the failed jobs of a batch."""
    message = sa.func.min(sa.func.substr(JobRecord.error_message, 1, MAX_MESSAGE_CHARACTERS))
    jobs = sa.func.count()
    is_failed = JobRecord.batch_id == batch.id, JobRecord.state == JobState.FAILED
    query = sa.select(JobRecord.error_type, jobs, message).where(*is_failed).group_by(JobRecord.error_type)
    rows = db.session.execute(query.order_by(jobs.desc(), JobRecord.error_type).limit(MAX_ERROR_GROUPS))
    return [ErrorGroup(error_type or "unknown", count, text) for error_type, count, text in rows]


def state_of(batch: JobBatch) -> str:
    """Return the state of a batch in one word: open, cancelled or finished."""
    if batch.cancelled_at is not None:
        return "cancelled"
    return "open" if batch.finished_at is None else "finished"


def cancel_batch(batch: JobBatch) -> tuple[list[str], list[str]]:
    """Cancel the live jobs of a batch, see `outbox.cancel_batch`, and record the action. The caller commits."""
    result = outbox.cancel_batch(batch.id)
    current_host().record_action("batch.cancel", {Subject("batch", batch.id): batch.school_id})
    return result


def retry_batch(batch: JobBatch, *, cancelled: bool = False) -> list[str]:
    """Retry the jobs of a batch, see `outbox.retry_batch`, and record the action. The caller commits."""
    retried = outbox.retry_batch(batch.id, cancelled=cancelled)
    if retried:
        current_host().record_action("batch.retry", {Subject("batch", batch.id): batch.school_id})
    return retried
