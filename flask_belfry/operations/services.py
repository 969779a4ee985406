"""Jobs for operators: lists, counts, details, retry and cancel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from flask_belfry import outbox
from flask_belfry.changes import Subject
from flask_belfry.changes.host import current_host
from flask_belfry.core.errors import NotFoundError
from flask_belfry.core.secrets import MASK
from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page, page_by_key
from flask_belfry.db.tenancy import ALL_TENANTS, current_scope, use_scope
from flask_belfry.outbox import JobAttempt, JobBatch, JobLog, JobRecord, JobState, UnknownJobError
from flask_belfry.outbox.models import AttemptOutcome, BlockedBy
from flask_belfry.outbox.registry import definition

# Counting stops here: an exact larger number is of no use and costs a scan.
COUNT_LIMIT = 10_000
# SQLite accepts at most 32,766 bound values in a statement.
IDS_PER_QUERY = 10_000
# The logs of the latest claims that are shown.
MAX_LOGS = 20
# The successors of a job that are shown.
MAX_SUCCESSORS = 100


@dataclass(frozen=True)
class JobFilters:
    """The filters of a list of jobs; None does not filter."""

    state: JobState | None = None
    name: str | None = None
    queue: str | None = None
    text: str | None = None
    subject: str | None = None  # type, or type/id
    since: datetime | None = None
    batch: str | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return the filters as SQL conditions."""
        found: list[sa.ColumnElement[bool]] = []
        if self.state:
            found.append(JobRecord.state == self.state)
        if self.name:
            found.append(JobRecord.name == self.name)
        if self.queue:
            found.append(JobRecord.queue == self.queue)
        if self.since:
            found.append(JobRecord.created_at >= self.since)
        if self.batch:
            found.append(JobRecord.batch_id == self.batch)
        if self.subject:
            found.append(_subject_is(self.subject))
        if self.text:
            found.append(_matches(self.text))
        return found


def list_jobs(filters: JobFilters, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[JobRecord]:
    """Return a page of jobs, newest first."""
    query = sa.select(JobRecord).where(*filters.conditions())
    return page_by_key(db.session(), query, (JobRecord.id,), limit=limit, cursor=cursor)


def counts_by_state() -> dict[str, int]:
    """Return the number of jobs in each state, counted up to COUNT_LIMIT."""
    columns = [_capped_count(state).label(state.value) for state in JobState]
    row = db.session.execute(sa.select(*columns)).one()
    return {state.value: getattr(row, state.value) for state in JobState}


def count_hidden(filters: JobFilters) -> int:
    """Return the number of system jobs that match the filters and are outside the current scope, up to COUNT_LIMIT.

    Jobs of other schools are not counted. Only the filters state, queue and name apply: with `text` a user could search
    the contents of hidden jobs.
    """
    if current_scope().sees_all:
        return 0
    visible = replace(filters, text=None, subject=None, since=None)
    with use_scope(ALL_TENANTS):
        rows = sa.select(JobRecord.id).where(JobRecord.school_id.is_(None), *visible.conditions()).limit(COUNT_LIMIT)
        return db.session.scalar(sa.select(sa.func.count()).select_from(rows.subquery())) or 0


def get_job(job_id: str) -> JobRecord:
    """Return the record with this id. Raises NotFoundError."""
    id = as_uuid_text(job_id)
    record = db.session.get(JobRecord, id) if id else None
    if record is None:
        raise NotFoundError("This job does not exist, was pruned, or is visible to admins only.")
    return record


@dataclass(frozen=True)
class Attempt:
    """An attempt for display. The running or completing one has no row of its own and is read from the job's record."""

    number: int
    outcome: str
    worker: str | None
    host: str | None
    started_at: datetime | None
    finished_at: datetime | None
    error_type: str | None = None
    error_message: str | None = None
    traceback: str | None = None


def attempts_of(record: JobRecord) -> list[Attempt]:
    """Return all attempts of a job, newest first."""
    query = sa.select(JobAttempt).where(JobAttempt.job_id == record.id).order_by(JobAttempt.id.desc())
    finished = [_finished_attempt(row) for row in db.session.scalars(query)]
    if record.state in (JobState.RUNNING, JobState.COMPLETED):
        finished_at = record.finished_at if record.state is JobState.COMPLETED else None
        host = None  # the name of the worker contains it
        last = Attempt(record.attempt, record.state.value, record.worker, host, record.started_at, finished_at)
        return [last, *finished]
    return finished


def shown_args(record: JobRecord) -> dict[str, Any]:
    """Return the arguments of a job, with a mask for those that its function declares as secret."""
    try:
        secrets = definition(record.name).secrets
    except UnknownJobError:
        secrets = ()
    return {name: MASK if name in secrets else value for name, value in record.args.items()}


def logs_of(record: JobRecord) -> list[JobLog]:
    """Return the log of each claim of a job that logged something, newest first."""
    query = sa.select(JobLog).where(JobLog.job_id == record.id).order_by(JobLog.claim.desc()).limit(MAX_LOGS)
    return list(db.session.scalars(query))


def predecessor_of(record: JobRecord) -> JobRecord | JobBatch | None:
    """Return the job or the batch after which a job is enqueued; None also when it was pruned."""
    if record.after_id is None:
        return None
    return db.session.get(JobRecord, record.after_id) or db.session.get(JobBatch, record.after_id)


def successors_of(row: JobRecord | JobBatch) -> list[JobRecord]:
    """Return the jobs that are enqueued after a job or a batch, at most MAX_SUCCESSORS."""
    if not row.has_successors:
        return []
    query = sa.select(JobRecord).where(JobRecord.after_id == row.id).order_by(JobRecord.id).limit(MAX_SUCCESSORS)
    return list(db.session.scalars(query))


@dataclass(frozen=True)
class StepsPosition:
    """How many rows of one loop over steps are committed: the job continues after them."""

    name: str
    done: int
    total: int | None


def steps_of(record: JobRecord) -> list[StepsPosition]:
    """Return the position of each loop over steps of a job, in the order in which they began."""
    return [StepsPosition(name, at["done"], at["total"]) for name, at in (record.cursor or {}).items()]


def snooze_reason(record: JobRecord, attempts: Sequence[Attempt]) -> str | None:
    """Return why a job waits that has snoozed last, in words.

    Args:
        record: the job.
        attempts: its attempts, newest first.
    """
    if record.state is not JobState.SCHEDULED or not attempts or attempts[0].outcome != AttemptOutcome.SNOOZED:
        return None
    return f"Snoozed: {attempts[0].error_message or 'without a reason.'}"


def waiting_reason(record: JobRecord) -> str | None:
    """Return what a blocked job waits for, in words."""
    match record.blocked_by:
        case BlockedBy.PREDECESSOR:
            return f"Waits until {record.after_id} is completed."
        case BlockedBy.LIMIT:
            return f"Waits for a free slot of the limit {record.limit_key}."
        case BlockedBy.PAUSE:
            return "Paused: its queue, its name or its limit key."
        case None:
            return None


def _finished_attempt(row: JobAttempt) -> Attempt:
    return Attempt(
        number=row.number,
        outcome=row.outcome.value,
        worker=row.worker,
        host=row.host,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error_type=row.error_type,
        error_message=row.error_message,
        traceback=row.traceback,
    )


def latest_failures(limit: int) -> Sequence[JobRecord]:
    """Return the latest failed jobs, newest first."""
    query = sa.select(JobRecord).where(JobRecord.state == JobState.FAILED)
    return db.session.scalars(query.order_by(JobRecord.id.desc()).limit(limit)).all()


def matching_ids(
    filters: JobFilters, states: Collection[JobState], *, limit: int | None = None, after: str | None = None
) -> list[str]:
    """Return the ids of the jobs in one of `states` that match the filters, the oldest first.

    Running jobs that were requested to stop are left out, and with `after` those up to the job with this id.
    """
    is_stopping = sa.and_(JobRecord.state == JobState.RUNNING, JobRecord.cancel_requested)
    query = sa.select(JobRecord.id).where(*filters.conditions(), JobRecord.state.in_(states), sa.not_(is_stopping))
    if after is not None:
        query = query.where(JobRecord.id > after)
    return list(db.session.execute(query.order_by(JobRecord.id).limit(limit)).scalars())


def retry_jobs(ids: Sequence[str]) -> list[str]:
    """Retry failed or cancelled jobs, see `outbox.retry`, and record the action. The caller commits."""
    retried = outbox.retry(ids)
    _record("job.retry", retried)
    return retried


def cancel_jobs(ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Cancel jobs, see `outbox.cancel`, and record the action. The caller commits."""
    cancelled, stopping = outbox.cancel(ids)
    _record("job.cancel", [*cancelled, *stopping])
    return cancelled, stopping


def _record(action: str, ids: Sequence[str]) -> None:
    for begin in range(0, len(ids), IDS_PER_QUERY):
        query = sa.select(JobRecord.id, JobRecord.school_id).where(JobRecord.id.in_(ids[begin : begin + IDS_PER_QUERY]))
        schools = {Subject("job", row.id): row.school_id for row in db.session.execute(query)}
        current_host().record_action(action, schools)


def _capped_count(state: JobState) -> sa.ScalarSelect[Any]:
    rows = sa.select(JobRecord.id).where(JobRecord.state == state).limit(COUNT_LIMIT).subquery()
    return sa.select(sa.func.count()).select_from(rows).scalar_subquery()


def _subject_is(subject: str) -> sa.ColumnElement[bool]:
    kind, _, id = subject.partition("/")
    found = JobRecord.subject_type == kind
    return sa.and_(found, JobRecord.subject_id == id) if id else found


def _matches(text: str) -> sa.ColumnElement[bool]:
    if id := as_uuid_text(text):
        return JobRecord.id == id
    columns = (JobRecord.name, JobRecord.subject_type, JobRecord.error_type, JobRecord.error_message)
    found = [column.icontains(text, autoescape=True) for column in columns]
    return sa.or_(*found, JobRecord.subject_id == text)
