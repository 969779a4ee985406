"""Retries finalized jobs, and cancels waiting and running ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope
from flask_belfry.outbox.errors import JobStateError
from flask_belfry.outbox.finalizing import FinalizedJob, announce_finalized, settle_successors
from flask_belfry.outbox.models import BlockedBy, JobBatch, JobRecord
from flask_belfry.outbox.pending import PendingMessage, publish_on_commit
from flask_belfry.outbox.states import LIVE, TIMED, WAITING, JobState
from flask_belfry.outbox.successors import PREDECESSOR_ERROR, Predecessor, awaits, lock_predecessors, pages

_UNSUCCESSFUL = (JobState.FAILED, JobState.CANCELLED)
_NO_SYNC = {"synchronize_session": False}
_CANDIDATE = JobRecord.id, JobRecord.batch_id, JobRecord.after_id, JobRecord.claims, JobRecord.has_successors
_OPEN = dict.fromkeys(("finished_at", "cancelled_at", "completed", "failed", "cancelled", "then_job_id"))

Listener = Callable[[Session, Sequence[str]], object]
_listeners: defaultdict[str, list[Listener]] = defaultdict(list)
_lockers: defaultdict[str, list[Listener]] = defaultdict(list)
_retry_listeners: defaultdict[str, list[Listener]] = defaultdict(list)


def on_batches_reopened(name: str, *, lock: Listener | None = None) -> Callable[[Listener], Listener]:
    """Call the function when finished batches of this name are opened again, with the session and their ids.

    It runs in the transaction that retries jobs of them, however that was requested.

    Args:
        name: the name of the batches.
        lock: called before that, with all batches that may be opened: locks the rows that the function changes. The
            batches and their jobs are locked after them, as in a function that cancels or retries what such a row has.
    """

    def register(function: Listener) -> Listener:
        _listeners[name].append(function)
        if lock is not None:
            _lockers[name].append(lock)
        return function

    return register


def on_retried(name: str) -> Callable[[Listener], Listener]:
    """Call the function when jobs of this name are set back to run again, with the session and their ids.

    It runs in the transaction that retries them, however that was requested.
    """

    def register(function: Listener) -> Listener:
        _retry_listeners[name].append(function)
        return function

    return register


def retry(ids: Sequence[str]) -> list[str]:
    """Set failed and cancelled jobs back to pending, with all their attempts. The caller commits.

    A successor that has never been enqueued waits for its predecessor again. Successors that were cancelled because of
    one of the jobs wait for it again, and finished batches of the jobs are open again.

    Returns:
        the ids that were set back; the others are in a state that cannot be retried, or their predecessor has failed or
        was cancelled.

    Raises:
        JobStateError: a live job holds the unique key of one of them, or one of them would wait for what waits for its
            batch.
    """
    return _retry(*(JobRecord.id.in_(page) for page in pages(ids)))


def retry_where(*conditions: sa.ColumnElement[bool]) -> list[str]:
    """Retry the failed and cancelled jobs that meet `conditions`, as `retry` does."""
    return _retry(sa.and_(*conditions))


def _retry(*wanted: sa.ColumnElement[bool]) -> list[str]:
    """Retry the jobs that meet one of the conditions, of which each is a statement."""
    _lock_for_retry([row for condition in wanted for row in _read_unsuccessful(condition)])
    query = sa.select(*_CANDIDATE).order_by(JobRecord.id).with_for_update()
    conditions = [sa.and_(condition, JobRecord.state.in_(_UNSUCCESSFUL)) for condition in wanted]
    candidates = [row for condition in conditions for row in db.session.execute(query.where(condition))]
    # What follows concerns the successors and batches of these jobs, also those of another school or of the system.
    # An error takes back all of it, and nothing else of the caller's transaction.
    with use_scope(ALL_TENANTS), db.session.begin_nested():
        ids = _that_can_run(candidates)
        rows = changed = [row for page in pages(ids) for row in _set_back(JobRecord.id.in_(page))]
        asked = [row.id for row in rows]
        while rows:
            parents = {row.id for row in rows if row.has_successors} | _reopen({row.batch_id for row in rows} - {None})
            rows = _set_back_successors(parents)
            changed = [*changed, *rows]
        _announce_retried(changed)
        awaiting = {row.id: row.after_id for row in changed if row.after_id is not None and not row.claims}
        messages = [PendingMessage(*row[:4]) for row in changed if row.id not in awaiting]
        publish_on_commit(db.session(), messages)
        cancelled = _wait_again(awaiting) if awaiting else set[str]()
        _check_batches([row for row in changed if row.id in awaiting and row.batch_id is not None])
    return [id for id in asked if id not in cancelled]


def _read_unsuccessful(*conditions: sa.ColumnElement[bool]) -> Sequence[Any]:
    return db.session.execute(sa.select(*_CANDIDATE).where(*conditions, JobRecord.state.in_(_UNSUCCESSFUL))).all()


def _lock_for_retry(candidates: Sequence[Any]) -> None:
    """Lock what a retry of these jobs changes or depends on, in the order of all transactions: what the application has
    for the batches, the batches, and the jobs.

    What becomes part of it meanwhile is locked later, by the statement that changes it.
    """
    job_ids, above = {row.id for row in candidates}, set[str]()
    rows = candidates
    with use_scope(ALL_TENANTS):
        while rows:
            above |= {row.after_id for row in rows if row.after_id is not None and not row.claims}
            batch_ids = {row.batch_id for row in rows} - {None} - above
            above |= batch_ids
            parents = batch_ids | {row.id for row in rows if row.has_successors}
            found = [row for page in pages(parents) for row in _read_unsuccessful(*_cancelled_successors(page))]
            rows = [row for row in found if row.id not in job_ids]
            job_ids |= {row.id for row in rows}
        job_ids |= above | _lock_batches(above)
        if len(job_ids) > len(candidates):  # otherwise the statement that reads the candidates locks all of them
            for page in pages(job_ids):
                db.session.execute(
                    sa.select(JobRecord.id).where(JobRecord.id.in_(page)).order_by(JobRecord.id).with_for_update()
                )


def _lock_batches(ids: Collection[str]) -> set[str]:
    """Lock those of the ids that are batches, after what the application has for them; return the ids of the jobs that
    follow their last finish."""
    columns = sa.select(JobBatch.id, JobBatch.name, JobBatch.then_job_id)
    batches = [row for page in pages(ids) for row in db.session.execute(columns.where(JobBatch.id.in_(page)))]
    for name in sorted({row.name for row in batches} & _lockers.keys()):
        for lock in _lockers[name]:
            lock(db.session(), [row.id for row in batches if row.name == name])
    for page in pages(row.id for row in batches):
        db.session.execute(sa.select(JobBatch.id).where(JobBatch.id.in_(page)).order_by(JobBatch.id).with_for_update())
    return {row.then_job_id for row in batches} - {None}


def _announce_retried(rows: Sequence[Any]) -> None:
    for name in sorted({row.name for row in rows} & _retry_listeners.keys()):
        for page in pages([row.id for row in rows if row.name == name]):
            for function in _retry_listeners[name]:
                function(db.session(), page)


def _that_can_run(candidates: Sequence[Any]) -> list[str]:
    """Return the ids of the jobs that can run again: those that have run before, and the successors of what has
    completed, is live, or is retried with them."""
    awaiting = {row.id: row.after_id for row in candidates if row.after_id is not None and not row.claims}
    batches = {row.id: row.batch_id for row in candidates}
    if not awaiting:
        return list(batches)
    found = lock_predecessors(db.session(), set(awaiting.values()))
    ended = {each.id for each in found.ended if not each.is_completed} | found.missing
    left = list(batches)
    while True:
        retried = {*left, *(batches[id] for id in left)}
        kept = [id for id in left if id not in awaiting or awaiting[id] not in ended or awaiting[id] in retried]
        if len(kept) == len(left):
            return left
        left = kept


def _set_back(*conditions: sa.ColumnElement[bool]) -> Sequence[Any]:
    statement = (
        sa.update(JobRecord)
        .where(*conditions, JobRecord.state.in_(_UNSUCCESSFUL))
        .values(
            state=JobState.PENDING,
            attempt=0,
            interruptions=0,
            snoozes=0,
            cancel_requested=False,
            scheduled_at=None,
            finished_at=None,
            blocked_by=None,
            rate_slot_at=None,
            expires_at=None,  # an expired job would expire again
            # The relay's grace period starts again; otherwise both the relay and the publisher would push it.
            enqueued_at=utc_now(),
            error_type=None,
            error_message=None,
        )
        .returning(
            JobRecord.id,
            JobRecord.name,
            JobRecord.queue,
            JobRecord.timeout_seconds,
            JobRecord.batch_id,
            JobRecord.has_successors,
            JobRecord.after_id,
            JobRecord.claims,
        )
    )
    try:
        return db.session.execute(statement, execution_options=_NO_SYNC).all()
    except IntegrityError as error:
        raise JobStateError("another live job has the same unique key: cancel that job first") from error


def _set_back_successors(ids: Collection[str]) -> list[Any]:
    return [row for page in pages(ids) for row in _set_back(*_cancelled_successors(page))]


def _cancelled_successors(ids: Collection[str]) -> Sequence[sa.ColumnElement[bool]]:
    """Return the conditions for the jobs that were cancelled because of one of these jobs and batches."""
    was_cancelled = JobRecord.state == JobState.CANCELLED, JobRecord.error_type == PREDECESSOR_ERROR
    return JobRecord.after_id.in_(ids), *was_cancelled


def _reopen(batch_ids: Collection[str]) -> set[str]:
    """Open the batches of retried jobs again, and cancel the jobs that follow their last finish and wait.

    Returns:
        those that were finished and have successors.
    """
    reopened, then = list[Any](), list[str]()
    for page in pages(batch_ids):
        columns = JobBatch.id, JobBatch.name, JobBatch.finished_at, JobBatch.has_successors, JobBatch.then_job_id
        # Locked also when it is open: it must not be finished before the retried jobs are committed.
        query = sa.select(*columns).where(JobBatch.id.in_(page)).order_by(JobBatch.id).with_for_update()
        rows = db.session.execute(query).all()
        opened = sa.update(JobBatch).where(JobBatch.id.in_(page)).values(_OPEN)
        db.session.execute(opened, execution_options=_NO_SYNC)
        reopened += [row for row in rows if row.finished_at is not None]
        then += [row.then_job_id for row in rows if row.then_job_id is not None]
    if then:
        cancel_where(JobRecord.id.in_(then), JobRecord.state.in_(WAITING))
    for name in sorted({row.name for row in reopened} & _listeners.keys()):
        for function in _listeners[name]:
            function(db.session(), [row.id for row in reopened if row.name == name])
    return {row.id for row in reopened if row.has_successors}


def _wait_again(awaiting: Mapping[str, str]) -> set[str]:
    """Set retried successors to blocked, and settle those whose predecessors have ended.

    Args:
        awaiting: their predecessors, by their ids.

    Returns:
        those that were cancelled again.
    """
    for page in pages(awaiting):
        is_waiting = JobRecord.id.in_(page), JobRecord.state == JobState.PENDING
        blocked = {"state": JobState.BLOCKED, "blocked_by": BlockedBy.PREDECESSOR}
        db.session.execute(sa.update(JobRecord).where(*is_waiting).values(blocked), execution_options=_NO_SYNC)
    predecessors = lock_predecessors(db.session(), set(awaiting.values()))
    missing = [Predecessor(id, False, f"job or batch {id} was deleted") for id in predecessors.missing]
    settle_successors(db.session(), [*predecessors.ended, *missing])
    cancelled = set[str]()
    for page in pages(awaiting):
        query = sa.select(JobRecord.id).where(JobRecord.id.in_(page), JobRecord.state == JobState.CANCELLED)
        cancelled.update(db.session.execute(query).scalars())
    return cancelled


def _check_batches(successors: Sequence[Any]) -> None:
    awaited: defaultdict[str, set[str]] = defaultdict(set)
    for row in successors:
        awaited[row.batch_id].add(row.after_id)
    for batch_id, ids in awaited.items():
        if awaits(db.session(), ids, batch_id):
            raise JobStateError(f"a job of batch {batch_id} would wait for what waits for this batch")


def run_now(ids: Sequence[str]) -> list[str]:
    """Set scheduled and retryable jobs to pending, so that they run without waiting for their time. The caller commits.

    Returns:
        the ids of those that were set to pending; the others do not wait for a time, or for one that the rate of their
        limit gave them.
    """
    found = list[str]()
    by_rate = JobRecord.rate_slot_at.is_not_distinct_from(JobRecord.scheduled_at)
    for page in pages(ids):
        waiting = JobRecord.id.in_(page), JobRecord.state.in_(TIMED), sa.not_(by_rate)
        # In the order in which others lock them.
        db.session.execute(sa.select(JobRecord.id).where(*waiting).order_by(JobRecord.id).with_for_update())
        statement = (
            sa.update(JobRecord)
            .where(*waiting)
            # The relay's grace period starts again.
            .values(state=JobState.PENDING, scheduled_at=None, rate_slot_at=None, enqueued_at=utc_now())
            .returning(JobRecord.id, JobRecord.name, JobRecord.queue, JobRecord.timeout_seconds)
        )
        rows = db.session.execute(statement, execution_options=_NO_SYNC).all()
        publish_on_commit(db.session(), [PendingMessage(*row, goes_first=True) for row in rows])
        found += [row.id for row in rows]
    return found


def cancel(ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Cancel jobs: waiting ones immediately, running ones when their function calls `check_cancelled`. The caller
    commits.

    Returns:
        the ids of the cancelled jobs, and of the running ones that were asked to stop.
    """
    cancelled, asked = list[str](), list[str]()
    for page in pages(ids):
        of_page = cancel_where(JobRecord.id.in_(page))
        cancelled += of_page[0]
        asked += of_page[1]
    return cancelled, asked


def cancel_where(*conditions: sa.ColumnElement[bool]) -> tuple[list[str], list[str]]:
    """Cancel the live jobs that meet `conditions`, as `cancel` does."""
    # In the order in which a transaction that completes a job locks it and its successors.
    live = sa.select(JobRecord.id).where(*conditions, JobRecord.state.in_(LIVE)).order_by(JobRecord.id)
    db.session.execute(live.with_for_update())
    waiting = (
        sa.update(JobRecord)
        .where(*conditions, JobRecord.state.in_(WAITING))
        .values(state=JobState.CANCELLED, finished_at=utc_now(), blocked_by=None)
        .returning(JobRecord.id, JobRecord.name, JobRecord.batch_id, JobRecord.has_successors)
    )
    running = (
        sa.update(JobRecord)
        .where(*conditions, JobRecord.state == JobState.RUNNING)
        .values(cancel_requested=True)
        .returning(JobRecord.id)
    )
    cancelled = db.session.execute(waiting, execution_options=_NO_SYNC).all()
    asked = list(db.session.execute(running, execution_options=_NO_SYNC).scalars())
    announce_finalized(db.session(), [FinalizedJob(*row) for row in cancelled], JobState.CANCELLED)
    return [row.id for row in cancelled], asked
