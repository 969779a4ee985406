"""Jobs for operators: lists, counts, details, retry and cancel."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from flask_belfry import outbox, search
from flask_belfry.changes import StatusChange, Subject, for_school
from flask_belfry.changes.host import current_host
from flask_belfry.core.errors import InvalidInputError, NotFoundError
from flask_belfry.core.secrets import MASK
from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text
from flask_belfry.db.pagination import DEFAULT_LIMIT
from flask_belfry.db.tenancy import ALL_TENANTS, current_scope, use_scope
from flask_belfry.operations.job_parameters import problems_of_args
from flask_belfry.outbox import JobAttempt, JobBatch, JobLog, JobRecord, JobState, UnknownJobError
from flask_belfry.outbox.models import AttemptOutcome, BlockedBy
from flask_belfry.outbox.registry import definition
from flask_belfry.search import Query, SearchPage

# Counting stops here: an exact larger number is of no use and costs a scan.
COUNT_LIMIT = 10_000
# SQLite accepts at most 32,766 bound values in a statement.
IDS_PER_QUERY = 10_000
# The logs of the latest claims that are shown.
MAX_LOGS = 20
# The successors of a job that are shown.
MAX_SUCCESSORS = 100
NOT_TIMED = "Only jobs that wait for their time or for their next attempt can be run now."


def list_jobs(query: Query, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> SearchPage[JobRecord]:
    """Return a page of the jobs that match a search, newest first."""
    return search.find(db.session(), query, limit=limit, cursor=cursor)


def count(query: Query) -> tuple[int, bool]:
    """Return how many jobs match a search, and whether there may be more: counted up to COUNT_LIMIT."""
    return search.count(db.session(), query, COUNT_LIMIT)


def counts_by_state() -> dict[str, int]:
    """Return the number of jobs in each state, counted up to COUNT_LIMIT."""
    columns = [_capped_count(state).label(state.value) for state in JobState]
    row = db.session.execute(sa.select(*columns)).one()
    return {state.value: getattr(row, state.value) for state in JobState}


def count_hidden(query: Query) -> int:
    """Return the number of system jobs that match a search and are outside the current scope, up to COUNT_LIMIT.

    Jobs of other schools are not counted. Only the terms state, queue and name apply: with others a user could search
    the contents of hidden jobs.
    """
    if current_scope().sees_all:
        return 0
    with use_scope(ALL_TENANTS):
        return count(query.only("state", "queue", "name").limited_to("school_id", [None]))[0]


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
    finished = [finished_attempt(row) for row in db.session.scalars(query)]
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


def parent_of(record: JobRecord) -> JobRecord | None:
    """Return the job that enqueued a job; None also when it was pruned."""
    return db.session.get(JobRecord, record.parent_id) if record.parent_id else None


def change_of(record: JobRecord) -> StatusChange | None:
    """Return the change of a status that caused a job; None also when it was deleted."""
    return db.session.get(StatusChange, record.change_id) if record.change_id else None


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


def finished_attempt(row: JobAttempt) -> Attempt:
    """Return an attempt that did not complete its job, for display."""
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


def next_matching_ids(
    query: Query, states: Collection[JobState], *, limit: int, after: str | None = None
) -> tuple[list[str], str | None]:
    """Return the ids of jobs in one of `states` that match a search, the oldest first, at most `limit`, and the id
    after which there may be more.

    Its cost is bounded, so it may return fewer ids, also none, although more jobs match. Running jobs that were
    requested to stop are left out, and with `after` those up to the job with this id.
    """
    is_stopping = sa.and_(JobRecord.state == JobState.RUNNING, JobRecord.cancel_requested)
    further = [sa.not_(is_stopping)] if JobState.RUNNING in states else []
    return search.next_ids(db.session(), query.limited_to("state", states), *further, limit=limit, after=after)


def states_of(query: Query, among: Collection[JobState], otherwise: Collection[JobState]) -> Collection[JobState]:
    """Return in which states the jobs must be that a search chooses for an action.

    Args:
        query: the search.
        among: the states in which the action is possible.
        otherwise: the states when the search names none.

    Raises:
        InvalidInputError: the action is not possible in any state that the search names.
    """
    if "state" not in query.values:
        return otherwise
    if not (found := query.values["state"] & frozenset(among)):
        valid = ", ".join(sorted(among))
        raise InvalidInputError("No job in this state can be changed so.", {"state": [f"must be one of {valid}"]})
    return found


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


def run_jobs_now(ids: Sequence[str]) -> list[str]:
    """Run jobs that wait for a time, see `outbox.run_now`, and record the action. The caller commits."""
    started = outbox.run_now(ids)
    _record("job.run", started)
    return started


def enqueue_job(name: str, args: Mapping[str, Any], school_id: int | None) -> str:
    """Enqueue a job as the current user, for all schools or for one, and record the action. Commits.

    Returns:
        the id of the job; of a singleton, that of the job that has not ended.

    Raises:
        UnknownJobError: there is no such job.
        InvalidInputError: an argument is invalid.
    """
    found = definition(name)
    if problems := problems_of_args(found, args):
        raise InvalidInputError("The arguments are invalid.", problems)
    with for_school(school_id):
        (job_id,) = found.enqueue_many([outbox.JobRequest(args)])
    current_host().record_action("job.enqueue", {Subject("job", job_id): school_id}, {"name": name})
    db.session.commit()
    return job_id


def _record(action: str, ids: Sequence[str]) -> None:
    for begin in range(0, len(ids), IDS_PER_QUERY):
        query = sa.select(JobRecord.id, JobRecord.school_id).where(JobRecord.id.in_(ids[begin : begin + IDS_PER_QUERY]))
        schools = {Subject("job", row.id): row.school_id for row in db.session.execute(query)}
        current_host().record_action(action, schools)


def _capped_count(state: JobState) -> sa.ScalarSelect[Any]:
    # In the order of the index: PostgreSQL could prefer to scan the table until it has found so many.
    rows = sa.select(JobRecord.id).where(JobRecord.state == state).order_by(JobRecord.id.desc()).limit(COUNT_LIMIT)
    return sa.select(sa.func.count()).select_from(rows.subquery()).scalar_subquery()
