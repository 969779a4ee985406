"""Bulk operations: retry or cancel all jobs that match a search, page by page, in a job.

The jobs are fixed when the operation is begun: those that matched then and are older than it. Each page commits with
what it changed and with how far the operation has come, so that it is resumed after a crash and nothing is done twice.
A paced operation snoozes between its pages.

With a canary, the first jobs are retried alone. The rest follows when all of them have ended and none has failed again:
finally, or in any attempt with the same cause as before. While the rest is retried, the operation stops when more than
MAX_FAILED_SHARE of the jobs that have ended failed again, and at least MIN_FAILED of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from flask_belfry import outbox, search
from flask_belfry.changes import Subject, current_actor, for_school
from flask_belfry.changes.host import current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, InvalidInputError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text, new_id
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page, page_by_key
from flask_belfry.db.tenancy import current_scope
from flask_belfry.execution import Snooze, current_job
from flask_belfry.operations import services
from flask_belfry.operations.models import BulkKind, BulkOperation, BulkOperationJob, BulkState
from flask_belfry.operations.search import parse
from flask_belfry.outbox import LIVE, JobRecord, JobState, JobStateError, on_finalized
from flask_belfry.outbox.locking import unlocked
from flask_belfry.outbox.states import WAITING
from flask_belfry.search import PARAMETER, Query
from flask_belfry.statistics import FailureGroup
from flask_belfry.statistics.models import SYSTEM_ID

RUN = "operations.run_bulk"
# What one page changes; what a paced one changes in PAGE_SECONDS, at least one job.
PAGE_JOBS = 500
PAGE_SECONDS = 5.0
# The most jobs that are selected one by one.
MAX_SELECTED = 100
MAX_CANARY = 100
# All that match are changed without an operation, in one transaction, when they are no more than this.
MAX_TOGETHER = 1_000
# What a retry of many jobs suggests: the first jobs alone, and the rest by this many in a second.
CANARY, PER_SECOND = 5, 5.0
MIN_PER_SECOND, MAX_PER_SECOND = 0.01, 1_000.0
# The canary is looked at again after a tenth of the time for which it has been awaited.
MIN_POLL_SECONDS, MAX_POLL_SECONDS = 2.0, 60.0
MIN_FAILED, MAX_FAILED_SHARE = 5, 0.2
# Of the jobs that an operation changed, the newest are counted.
WATCHED_JOBS = 10_000
# Counting the jobs of an operation stops here.
MAX_TOTAL = 1_000_000
SAMPLE_JOBS = 10
_RETRYABLE = (JobState.FAILED, JobState.CANCELLED)
_States = tuple[Collection[JobState], Collection[JobState]]
# In which states jobs can be changed, and which of them are when a search names none.
_STATES: Mapping[BulkKind, _States] = {BulkKind.RETRY: (_RETRYABLE, [JobState.FAILED]), BulkKind.CANCEL: (LIVE, LIVE)}
_REVERSE = {BulkKind.RETRY: BulkKind.CANCEL, BulkKind.CANCEL: BulkKind.RETRY}
_PAST = {BulkKind.RETRY: "retried", BulkKind.CANCEL: "cancelled"}


class NoJobsError(InvalidInputError):
    """No job matches an operation."""


@dataclass(frozen=True)
class Outcomes:
    """The states of the jobs that an operation changed, the newest WATCHED_JOBS of them."""

    live: int
    ended: int
    failed_again: int
    error_type: str | None  # of one that failed again


def begin(
    kind: BulkKind,
    query_text: str,
    *,
    ids: Sequence[str] | None = None,
    group_id: str | None = None,
    canary: int | None = None,
    per_second: float | None = None,
) -> BulkOperation:
    """Write an operation and its job, for the jobs that match now. The caller commits.

    Args:
        kind: what is done to each of them.
        query_text: the search, within the current scope. With `ids` or `group_id` it only describes them.
        ids: the jobs themselves, at most MAX_SELECTED.
        group_id: the failed jobs of this group of failures.
        canary: retry this many of them first, and the rest when none of those has failed again.
        per_second: how many are changed in a second; None is as fast as possible.

    Raises:
        InvalidInputError: a value is invalid, or no job matches.
        NotFoundError: there is no such group.
    """
    if problems := _problems(kind, ids, canary, per_second):
        raise InvalidInputError("The operation is invalid.", problems)
    operation = _new(kind, query_text, group_id=group_id, canary=canary, per_second=per_second)
    return _write(operation, ids, f"bulk.{kind.value}")


def begin_or_find(
    kind: BulkKind, query: Query, *, canary: int | None = None, per_second: float | None = None
) -> BulkOperation | list[str]:
    """Begin an operation for all jobs that match a search. Without `canary` and `per_second`, and when they are at most
    MAX_TOGETHER, return their ids instead: the caller changes them. The caller commits.

    The arguments are those of `begin`.

    Raises:
        InvalidInputError: the search is empty, names no state in which this is possible, or a number is invalid.
    """
    check_search(query)
    states = services.states_of(query, *_STATES[kind])
    if canary is None and per_second is None:
        ids, next_id = services.next_matching_ids(query, states, limit=MAX_TOGETHER)
        if next_id is None:
            return ids
    try:
        return begin(kind, str(query), canary=canary, per_second=per_second)
    except NoJobsError:
        return []


def check_search(query: Query) -> None:
    """Raise InvalidInputError for an empty search: without a preview, it is more often a mistake than a choice."""
    if not query:
        raise InvalidInputError("The search is empty.", {PARAMETER: ["must have at least one term"]})


def selection_in_words(ids: Sequence[str]) -> str:
    """Return what the query of an operation says that changes selected jobs."""
    return f"{len(ids)} selected job{'' if len(ids) == 1 else 's'}"


def undo(operation_id: str) -> BulkOperation:
    """Begin the reverse of an operation: cancel what it put back and has not started, or retry what it cancelled. The
    caller commits.

    Raises:
        NotFoundError: there is no such operation.
        ConflictError: it runs, was undone, or nothing of it can be undone.
    """
    undone = _locked(operation_id)
    if not can_undo(undone):
        raise ConflictError("Nothing of this operation can be undone.")
    return _write(_new(_REVERSE[undone.kind], undone.query, undo_of_id=undone.id), None, "bulk.undo")


def cancel(operation_id: str) -> BulkOperation:
    """Stop an operation before its next page. What it has changed stays changed. The caller commits.

    Raises:
        NotFoundError: there is no such operation.
        ConflictError: it has ended.
    """
    operation = _locked(operation_id)
    if operation.state is not BulkState.RUNNING:
        raise ConflictError("The operation has already ended.")
    _end(operation, BulkState.CANCELLED)
    # A transaction that cancels this job has locked it before the operation. Left alone, it finds that it was stopped.
    outbox.cancel(db.session.scalars(unlocked(JobRecord.id == operation.job_id)).all())
    _record("bulk.stop", operation, changed=operation.changed)
    return operation


def can_undo(operation: BulkOperation) -> bool:
    """Return whether something of an operation can be undone, and was not."""
    if operation.state is BulkState.RUNNING or operation.undo_of_id is not None:
        return False
    later = BulkOperation.id > operation.id, BulkOperation.undo_of_id == operation.id
    if db.session.scalar(sa.select(BulkOperation.id).where(*later).limit(1)):
        return False
    reversible = _undoable(operation.id, _REVERSE[operation.kind])
    return db.session.scalar(sa.select(JobRecord.id).where(*reversible).limit(1)) is not None


def get_operation(operation_id: str) -> BulkOperation:
    """Return an operation within the current scope. Raises NotFoundError."""
    id = as_uuid_text(operation_id)
    operation = db.session.get(BulkOperation, id) if id else None
    if operation is None:
        raise NotFoundError("This operation does not exist, was pruned, or is visible to admins only.")
    return operation


def list_operations(*, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[BulkOperation]:
    """Return a page of operations, newest first."""
    return page_by_key(db.session(), sa.select(BulkOperation), (BulkOperation.id,), limit=limit, cursor=cursor)


def outcomes_of(operation: BulkOperation) -> Outcomes:
    """Return what has become of the jobs that an operation changed."""
    newest = sa.select(BulkOperationJob).where(BulkOperationJob.operation_id == operation.id)
    changed = newest.order_by(BulkOperationJob.job_id.desc()).limit(WATCHED_JOBS).subquery()
    # An attempt has failed with the same cause; a job that a deploy released waits too, but has failed in no attempt.
    failed_as_before = sa.and_(
        JobRecord.state == JobState.RETRYABLE, JobRecord.attempt > 0, JobRecord.fingerprint == changed.c.fingerprint
    )
    failed_again = sa.or_(JobRecord.state == JobState.FAILED, failed_as_before)
    query = sa.select(
        sa.func.count(),
        sa.func.count(sa.case((JobRecord.state.in_(LIVE), 1))),
        sa.func.count(sa.case((failed_again, 1))),
        sa.func.max(sa.case((failed_again, sa.func.coalesce(JobRecord.error_type, "")))),
    ).join_from(changed, JobRecord, JobRecord.id == changed.c.job_id)
    total, live, failed, error_type = db.session.execute(query).one()
    return Outcomes(live, total - live, failed, error_type or None)


def groups_of(operations: Sequence[BulkOperation]) -> dict[str, FailureGroup]:
    """Return the groups of failures that operations are about, by their ids."""
    ids = {operation.group_id for operation in operations} - {None}
    query = sa.select(FailureGroup).where(FailureGroup.id.in_(ids))
    return {group.id: group for group in db.session.scalars(query)} if ids else {}


def prune_operations(session: Session, older_than: timedelta) -> int:
    """Delete operations that began before `older_than` and have ended. The caller commits.

    Returns:
        the number of deleted operations.
    """
    is_old = BulkOperation.created_at < utc_now() - older_than, BulkOperation.state != BulkState.RUNNING
    deleted = sa.delete(BulkOperation).where(*is_old).returning(BulkOperation.id)
    return len(session.execute(deleted, execution_options={"synchronize_session": False}).all())


@dataclass(frozen=True)
class Preview:
    """The jobs that an operation would change: how many, or more when counting stopped, and the newest of them."""

    count: int
    is_capped: bool
    sample: Sequence[JobRecord]


def preview(kind: BulkKind, query_text: str, ids: Sequence[str] | None = None) -> Preview:
    """Return the jobs that an operation would change. Raises InvalidInputError for an invalid search or selection."""
    if problems := _problems(kind, ids, None, None):
        raise InvalidInputError("The operation is invalid.", problems)
    operation = _new(kind, query_text)
    if ids is None:
        query = _query(operation)
        count, is_capped = services.count(query)
        return Preview(count, is_capped, services.list_jobs(query, limit=SAMPLE_JOBS).items)
    selected = sa.select(JobRecord).where(*_conditions(operation, ids)).order_by(JobRecord.id.desc())
    jobs = db.session.scalars(selected).all()
    return Preview(len(jobs), False, jobs[:SAMPLE_JOBS])


# ── What the job does ────────────────────────────────────────────────────────────────────────────────────────────


def run(operation_id: str, ids: Sequence[str] | None) -> None:
    """Do an operation, page by page, from where it has come."""
    job = current_job()
    operation = _locked(operation_id)
    rows = sa.select(JobRecord.id).where(*_conditions(operation, ids))
    if operation.canary is not None and operation.after_id is None:
        first = db.session.scalars(rows.order_by(JobRecord.id).limit(operation.canary)).all()
        for page in job.steps(first, operation.canary, name="canary"):
            if not _change(operation_id, ids, page):
                return
        rows = rows.where(JobRecord.id > first[-1]) if first else rows
    for page in job.steps(rows, _page_size(operation.per_second), name="rest"):
        if not _change(operation_id, ids, [row.id for row in page]):
            return
    operation = _locked(operation_id)
    if _may_continue(operation, ids, is_paced=False):
        _end(operation, BulkState.FINISHED)


@on_finalized(RUN, JobState.FAILED, JobState.CANCELLED)
def end_with_the_job(session: Session, job_ids: Sequence[str], state: JobState) -> None:
    """End the operations whose job failed, or was cancelled like any other job."""
    values = {"state": BulkState.CANCELLED, "finished_at": utc_now()}
    if state is JobState.FAILED:
        values |= {"state": BulkState.STOPPED, "reason": "Its job failed."}
    running = BulkOperation.job_id.in_(job_ids), BulkOperation.state == BulkState.RUNNING
    session.execute(sa.update(BulkOperation).where(*running).values(values))


def _change(operation_id: str, ids: Sequence[str] | None, page: Sequence[str]) -> bool:
    """Do one page, which the caller commits; return whether the operation goes on."""
    operation = _locked(operation_id)
    if not _may_continue(operation, ids, is_paced=True):
        return False
    causes = sa.select(JobRecord.id, JobRecord.fingerprint).where(JobRecord.id.in_(page))
    fingerprints = {row.id: row.fingerprint for row in db.session.execute(causes)}
    changed = _retry(page) if operation.kind is BulkKind.RETRY else _cancel(page)
    if changed:
        rows = [{"operation_id": operation_id, "job_id": id, "fingerprint": fingerprints[id]} for id in changed]
        db.session.execute(sa.insert(BulkOperationJob), rows)
    operation.done += len(page)
    # More than were counted, if the transaction that ended one of them was not committed yet.
    operation.total = max(operation.total, operation.done)
    operation.changed += len(changed)
    operation.after_id = page[-1]
    operation.next_page_at = utc_now() + timedelta(seconds=len(page) / (operation.per_second or math.inf))
    return True


def _may_continue(operation: BulkOperation, ids: Sequence[str] | None, *, is_paced: bool) -> bool:
    """Return whether the operation goes on now: it was not stopped, its jobs do not fail again, and it is due."""
    # Another job of it may be left from before, or was enqueued by a user.
    if operation.state is not BulkState.RUNNING or operation.job_id != current_job().claim.id:
        return False
    awaited = operation.next_page_at
    if operation.canary is not None and awaited is not None:
        outcomes = outcomes_of(operation)
        operation.failed = outcomes.failed_again
        is_canary = operation.done <= operation.canary
        if reason := _reason_to_stop(outcomes, operation.changed, is_canary=is_canary):
            _end(operation, BulkState.STOPPED, reason)
            return False
        if is_canary and outcomes.live:
            seconds = (utc_now() - awaited).total_seconds() / 10
            seconds = min(max(seconds, MIN_POLL_SECONDS), MAX_POLL_SECONDS)
            return _wait(operation, ids, seconds, f"Waits for the end of the first {_jobs(operation.changed)}.")
    if is_paced and awaited is not None and operation.per_second is not None and awaited > utc_now():
        seconds = (awaited - utc_now()).total_seconds()
        return _wait(operation, ids, seconds, f"Paced: {operation.per_second:g} jobs per second.")
    return True


def _wait(operation: BulkOperation, ids: Sequence[str] | None, seconds: float, reason: str) -> bool:
    """Continue the operation later: in this job, or in another one when this one has snoozed too often."""
    if current_job().claim.snoozes < current_app.config["MAX_SNOOZES"]:
        raise Snooze(seconds, reason)
    operation.job_id = _enqueue(operation, ids, delay=seconds)
    return False


def _reason_to_stop(outcomes: Outcomes, changed: int, *, is_canary: bool) -> str | None:
    failed, ended = outcomes.failed_again, max(outcomes.ended, outcomes.failed_again)
    if is_canary and failed:
        of = f"of the first {_jobs(changed)}"
    elif failed >= MIN_FAILED and failed > ended * MAX_FAILED_SHARE:
        of = f"of {_jobs(ended)}"
    else:
        return None
    return f"{failed:,} {of} failed again{f': {outcomes.error_type}' if outcomes.error_type else ''}."


def _retry(ids: Sequence[str]) -> list[str]:
    """Retry jobs; those whose unique key another job has are left out."""
    try:
        return outbox.retry(ids)
    except JobStateError:
        return [retried for id in ids for retried in _retry_one(id)]


def _retry_one(id: str) -> list[str]:
    try:
        return outbox.retry([id])
    except JobStateError:
        return []


def _cancel(ids: Sequence[str]) -> list[str]:
    cancelled, stopping = outbox.cancel(ids)
    return [*cancelled, *stopping]


def _page_size(per_second: float | None) -> int:
    return PAGE_JOBS if per_second is None else min(PAGE_JOBS, max(1, int(per_second * PAGE_SECONDS)))


# ── The jobs that match ──────────────────────────────────────────────────────────────────────────────────────────


def _conditions(operation: BulkOperation, ids: Sequence[str] | None) -> list[sa.ColumnElement[bool]]:
    """Return the conditions for the jobs that an operation changes and has not come to yet."""
    conditions = [JobRecord.created_at <= operation.created_at, JobRecord.name != RUN]
    if operation.after_id is not None:
        conditions.append(JobRecord.id > operation.after_id)
    if operation.kind is BulkKind.RETRY:
        # What fails later was not in the preview.
        conditions.append(JobRecord.finished_at <= operation.created_at)
    if operation.undo_of_id is not None:
        return [*conditions, *_undoable(operation.undo_of_id, operation.kind)]
    if ids is not None:
        return [*conditions, JobRecord.id.in_(ids), _may_be(operation.kind)]
    if operation.group_id is not None:
        return [*conditions, *_failed_of_group(operation.group_id)]
    return [*conditions, *search.conditions(_query(operation)), _may_be(operation.kind)]


def _may_be(kind: BulkKind) -> sa.ColumnElement[bool]:
    if kind is BulkKind.RETRY:
        return JobRecord.state.in_(_RETRYABLE)
    is_stopping = sa.and_(JobRecord.state == JobState.RUNNING, JobRecord.cancel_requested)
    return sa.and_(JobRecord.state.in_(LIVE), sa.not_(is_stopping))


def _undoable(operation_id: str, kind: BulkKind) -> list[sa.ColumnElement[bool]]:
    """Return the conditions for the jobs of an operation that its reverse, an operation of `kind`, changes."""
    changed = sa.select(BulkOperationJob.job_id).where(BulkOperationJob.operation_id == operation_id)
    conditions = [JobRecord.id.in_(changed)]
    if kind is BulkKind.RETRY:
        return [*conditions, JobRecord.state == JobState.CANCELLED]
    # A retry sets these back to 0.
    has_not_started = JobRecord.attempt == 0, JobRecord.snoozes == 0, JobRecord.interruptions == 0
    return [*conditions, JobRecord.state.in_(WAITING), *has_not_started]


def _failed_of_group(group_id: str) -> list[sa.ColumnElement[bool]]:
    group = db.session.get(FailureGroup, group_id)
    if group is None:
        raise NotFoundError("There is no such group of failures.")
    school_id = None if group.school_id == SYSTEM_ID else group.school_id
    return [
        JobRecord.has_failed(),
        JobRecord.fingerprint == group.fingerprint,
        JobRecord.state == JobState.FAILED,
        JobRecord.school_id == school_id,
    ]


def _query(operation: BulkOperation) -> Query:
    """Return the search of an operation, for the states that it can change. Raises InvalidInputError."""
    query = parse(operation.query, now=operation.created_at)
    # Cancelled jobs are retried only when the search names their state.
    among, otherwise = _STATES[operation.kind]
    return query.limited_to("state", among if "state" in query.values else otherwise)


def _count(conditions: Sequence[sa.ColumnElement[bool]], most: int) -> int:
    rows = sa.select(JobRecord.id).where(*conditions).limit(most).subquery()
    return db.session.scalar(sa.select(sa.func.count()).select_from(rows)) or 0


# ── Rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _new(kind: BulkKind, query_text: str, **columns: Any) -> BulkOperation:
    """Return a new operation of the current user, within the current scope."""
    school_id = None if current_scope().sees_all else current_scope().school_id
    return BulkOperation(
        id=new_id(),
        kind=kind,
        query=query_text,
        user_id=current_actor().user_id,
        school_id=school_id,
        created_at=utc_now(),
        state=BulkState.RUNNING,
        done=0,
        changed=0,
        failed=0,
        **columns,
    )


def _write(operation: BulkOperation, ids: Sequence[str] | None, action: str) -> BulkOperation:
    operation.total = _count(_conditions(operation, ids), MAX_TOTAL)
    if not operation.total:
        raise NoJobsError(f"No job can be {_PAST[operation.kind]}.")
    operation.job_id = _enqueue(operation, ids)
    db.session.add(operation)
    _record(action, operation)
    return operation


def _enqueue(operation: BulkOperation, ids: Sequence[str] | None, delay: float | None = None) -> str:
    with for_school(operation.school_id):
        return outbox.enqueue(RUN, delay=delay, subject=subject_of(operation), operation_id=operation.id, job_ids=ids)


def _locked(operation_id: str) -> BulkOperation:
    id = get_operation(operation_id).id
    return db.session.get_one(BulkOperation, id, with_for_update=True, populate_existing=True)


def _end(operation: BulkOperation, state: BulkState, reason: str | None = None) -> None:
    operation.state, operation.reason, operation.finished_at = state, reason, utc_now()


def subject_of(operation: BulkOperation) -> Subject:
    """Return the subject of the job and of the audit entries of an operation."""
    return Subject("bulk_operation", operation.id)


def _record(action: str, operation: BulkOperation, **counts: int) -> None:
    details = {"query": operation.query, "jobs": operation.total, **counts}
    current_host().record_action(action, {subject_of(operation): operation.school_id}, details)


def _jobs(number: int) -> str:
    return "job" if number == 1 else f"{number:,} jobs"


def _problems(
    kind: BulkKind, ids: Sequence[str] | None, canary: int | None, per_second: float | None
) -> dict[str, list[str]]:
    problems: dict[str, list[str]] = {}
    if ids is not None and (not 0 < len(ids) <= MAX_SELECTED or not all(map(as_uuid_text, ids))):
        problems["ids"] = [f"must be 1 to {MAX_SELECTED} ids of jobs"]
    if canary is not None and kind is not BulkKind.RETRY:
        problems["canary"] = ["must come with a retry"]
    elif canary is not None and not 1 <= canary <= MAX_CANARY:
        problems["canary"] = [f"must be from 1 to {MAX_CANARY}"]
    if per_second is not None and not MIN_PER_SECOND <= per_second <= MAX_PER_SECOND:
        problems["per_second"] = [f"must be from {MIN_PER_SECOND:g} to {MAX_PER_SECOND:g}"]
    return problems
