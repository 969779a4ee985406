"""Successors: jobs that wait until another job or a batch is completed.

A successor is `blocked` by its predecessor. The transaction that finalizes the predecessor enqueues its successors or
cancels them. Who makes a job a successor locks the predecessor's row, so that one of the two sees the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.db.columns import UtcDateTime
from flask_belfry.db.lists import among
from flask_belfry.db.tenancy import scoped
from flask_belfry.outbox.errors import JobArgumentError
from flask_belfry.outbox.models import BlockedBy, JobBatch, JobRecord
from flask_belfry.outbox.pending import PendingMessage, publish_on_commit
from flask_belfry.outbox.requests import problems_of_values
from flask_belfry.outbox.states import FINALIZED, JobState

# The `error_type` of a successor that was cancelled because of its predecessor.
PREDECESSOR_ERROR = "PredecessorError"
# SQLite accepts at most 32,766 bound values in a statement.
IDS_PER_STATEMENT = 10_000


class FinalizedJob(NamedTuple):
    """A job that the open transaction has just finalized."""

    id: str
    name: str
    batch_id: str | None
    has_successors: bool


class Predecessor(NamedTuple):
    """A job or a batch that has ended. `reason` is why its successors are cancelled, when it did not complete."""

    id: str
    is_completed: bool
    reason: str


class LockedPredecessors(NamedTuple):
    """Predecessors that are locked: those that have ended, the ids of those that are batches, and of those that do not
    exist in the current scope. `batch_of` has the batches of those that are jobs of one."""

    ended: list[Predecessor]
    batches: set[str]
    missing: set[str]
    batch_of: dict[str, str]


RECORDS = table_of(JobRecord)
_BATCH_COLUMNS = (
    JobBatch.id,
    JobBatch.name,
    JobBatch.finished_at,
    JobBatch.cancelled_at,
    JobBatch.completed,
    JobBatch.failed,
    JobBatch.cancelled,
)
_PREDECESSOR = aliased(JobRecord)
_WAITS = sa.and_(RECORDS.c.state == JobState.BLOCKED, RECORDS.c.blocked_by == BlockedBy.PREDECESSOR)
_DIRECTLY_AWAITED = (
    sa.select(RECORDS.c.after_id.label("id"))
    .where(_WAITS, sa.or_(among(RECORDS.c.id, "ids"), among(RECORDS.c.batch_id, "ids")))
    .cte("awaited", recursive=True)
)
_WAITING = RECORDS.alias()
# What the jobs and batches with these ids wait for, directly or through others: a job for what it is enqueued after, a
# batch for what its jobs are enqueued after.
_AWAITED = _DIRECTLY_AWAITED.union(
    sa.select(_WAITING.c.after_id)
    .join(
        _DIRECTLY_AWAITED,
        sa.or_(_WAITING.c.id == _DIRECTLY_AWAITED.c.id, _WAITING.c.batch_id == _DIRECTLY_AWAITED.c.id),
    )
    .where(_WAITING.c.state == JobState.BLOCKED, _WAITING.c.blocked_by == BlockedBy.PREDECESSOR)
)
_AWAITS = sa.select(_AWAITED.c.id).where(_AWAITED.c.id == sa.bindparam("awaited"))
_RELEASED = {"state": JobState.PENDING, "blocked_by": None, "enqueued_at": sa.bindparam("now", type_=UtcDateTime)}
_MESSAGE = (RECORDS.c.id, RECORDS.c.name, RECORDS.c.queue, RECORDS.c.timeout_seconds)
_LOCK_SUCCESSORS = (
    sa.select(RECORDS.c.id)
    .where(among(RECORDS.c.after_id, "ids"), RECORDS.c.result_as.is_(None), _WAITS)
    .order_by(RECORDS.c.id)
    .with_for_update()
)
_RELEASE = sa.update(RECORDS).where(RECORDS.c.id.in_(_LOCK_SUCCESSORS), _WAITS).values(_RELEASED).returning(*_MESSAGE)
_RELEASE_WITH_RESULT = (
    sa.update(RECORDS)
    .where(RECORDS.c.id == sa.bindparam("of"), _WAITS)
    .values({**_RELEASED, "args": sa.bindparam("new_args", type_=sa.JSON)})
)
_WITH_RESULT = (
    sa.select(
        *_MESSAGE,
        RECORDS.c.batch_id,
        RECORDS.c.has_successors,
        RECORDS.c.args,
        RECORDS.c.result_as,
        RECORDS.c.after_id,
        _PREDECESSOR.result,
    )
    .join(_PREDECESSOR, _PREDECESSOR.id == RECORDS.c.after_id)
    .where(among(RECORDS.c.after_id, "ids"), RECORDS.c.result_as.is_not(None), _WAITS)
    .order_by(RECORDS.c.id)
    .with_for_update(of=RECORDS)
)
_SUCCESSORS = (
    sa.select(RECORDS.c.id, RECORDS.c.name, RECORDS.c.batch_id, RECORDS.c.has_successors, RECORDS.c.after_id)
    .where(among(RECORDS.c.after_id, "ids"), _WAITS)
    .order_by(RECORDS.c.id)
    .with_for_update()
)
_CANCELLED = {
    "state": JobState.CANCELLED,
    "blocked_by": None,
    "finished_at": sa.bindparam("now", type_=UtcDateTime),
    "error_type": PREDECESSOR_ERROR,
    "error_message": sa.bindparam("reason"),
}
_CANCEL_AFTER = sa.update(RECORDS).where(RECORDS.c.after_id == sa.bindparam("of"), _WAITS).values(_CANCELLED)
_CANCEL_ONE = sa.update(RECORDS).where(RECORDS.c.id == sa.bindparam("of"), _WAITS).values(_CANCELLED)


def predecessor_of(job: FinalizedJob, state: JobState) -> Predecessor:
    """Return a finalized job as the predecessor of others."""
    ended = "failed" if state is JobState.FAILED else "was cancelled"
    return Predecessor(job.id, state is JobState.COMPLETED, f"job {job.name} {job.id} {ended}")


def batch_as_predecessor(batch: Any) -> Predecessor:
    """Return a finished batch, or its row, as the predecessor of jobs."""
    total = batch.completed + batch.failed + batch.cancelled
    counts = [(batch.failed, "failed"), (batch.cancelled, "were cancelled")]
    parts = " and ".join(f"{count} {ended}" for count, ended in counts if count)
    reason = (
        f"of {total} jobs of batch {batch.name} {batch.id}, {parts}" if parts else f"batch {batch.id} was cancelled"
    )
    return Predecessor(batch.id, not parts and batch.cancelled_at is None, reason)


def make_successors(session: Session, rows: Sequence[dict[str, Any]]) -> list[Predecessor]:
    """Set the rows of new records with `after_id` to blocked, and lock their predecessors.

    Returns:
        the predecessors that have ended already: `settle` the successors once they are inserted.

    Raises:
        JobArgumentError: there is no such job or batch in the current scope, or a batch is to hand on a result.
    """
    successors = [row for row in rows if row["after_id"] is not None]
    if not successors:
        return []
    found = lock_predecessors(session, {row["after_id"] for row in successors})
    if found.missing:
        message = f"there is no job or batch {min(found.missing)}"
        raise JobArgumentError(message, {"after": ["must be the id of a job or a batch"]})
    for row in successors:
        if row["after_id"] in found.batches and row["result_as"] is not None:
            raise JobArgumentError("a batch has no result", {"with_result": ["must come with a job as `after`"]})
        if row["after_id"] in (row.get("batch_id"), row["id"]):
            raise JobArgumentError("a job cannot wait for itself or its own batch", {"after": ["must be another one"]})
        row |= {"state": JobState.BLOCKED, "blocked_by": BlockedBy.PREDECESSOR}
    _check_batches(session, successors, found)
    return found.ended


def _check_batches(session: Session, successors: Sequence[Mapping[str, Any]], found: LockedPredecessors) -> None:
    awaited: defaultdict[str, set[str]] = defaultdict(set)
    for row in successors:
        batch_id = row.get("batch_id")
        # A batch waits for its jobs already.
        if batch_id is not None and found.batch_of.get(row["after_id"]) != batch_id:
            awaited[batch_id].add(row["after_id"])
    for batch_id, ids in awaited.items():
        if awaits(session, ids, batch_id):
            message = f"a job of batch {batch_id} cannot wait for what waits for this batch"
            raise JobArgumentError(message, {"after": ["must not wait for the batch of the job"]})


def awaits(session: Session, ids: Collection[str], batch_id: str) -> bool:
    """Return whether one of these jobs and batches waits for the batch, directly or through others.

    A job of the batch must not be enqueued after it: none of them would ever run. Only a batch can wait for what was
    enqueued after it.
    """
    values = ({"ids": page, "awaited": batch_id} for page in pages(ids))
    return any(session.connection().execute(_AWAITS, each).first() is not None for each in values)


def lock_predecessors(session: Session, ids: Collection[str]) -> LockedPredecessors:
    """Record that jobs or batches have successors, and lock them until the transaction ends."""
    ended: list[Predecessor] = []
    left, batches = set(ids), set[str]()
    batch_of: dict[str, str] = {}
    if len(left) > 1:  # in the order of all transactions
        _lock(session, JobBatch, left)
        _lock(session, JobRecord, left)
    for row in _mark(session, JobRecord, left, JobRecord.id, JobRecord.name, JobRecord.state, JobRecord.batch_id):
        left.discard(row.id)
        if row.batch_id is not None:
            batch_of[row.id] = row.batch_id
        if row.state in FINALIZED:
            ended.append(predecessor_of(FinalizedJob(row.id, row.name, None, True), row.state))
    for row in _mark(session, JobBatch, left, *_BATCH_COLUMNS):
        batches.add(row.id)
        if row.finished_at is not None:
            ended.append(batch_as_predecessor(row))
    return LockedPredecessors(ended, batches, left - batches, batch_of)


def _lock(session: Session, model: type[JobRecord | JobBatch], ids: Collection[str]) -> None:
    for page in pages(ids):
        query = sa.select(model.id).where(model.id.in_(page)).order_by(model.id).with_for_update()
        session.connection().execute(scoped(query)).all()


def _mark(session: Session, model: type[JobRecord | JobBatch], ids: Collection[str], *columns: Any) -> list[Any]:
    rows: list[Any] = []
    for page in pages(ids):
        statement = sa.update(model).where(model.id.in_(page)).values(has_successors=True).returning(*columns)
        rows += session.connection().execute(scoped(statement)).all()
    return rows


def settle(session: Session, ended: Iterable[Predecessor]) -> list[FinalizedJob]:
    """Enqueue the successors of what completed, and cancel those of the others.

    Returns:
        the cancelled ones, which the caller announces.
    """
    ended = list(ended)
    cancelled = [
        job for page in pages(each.id for each in ended if each.is_completed) for job in _release(session, page)
    ]
    reasons = {each.id: each.reason for each in ended if not each.is_completed}
    for page in pages(reasons):
        cancelled += _cancel(session, {id: reasons[id] for id in page})
    return cancelled


def _release(session: Session, ids: Sequence[str]) -> list[FinalizedJob]:
    connection, now = session.connection(), utc_now()
    released = [PendingMessage(*row) for row in connection.execute(_RELEASE, {"ids": ids, "now": now})]
    changed: list[dict[str, Any]] = []
    unfit: list[tuple[FinalizedJob, str]] = []
    for row in connection.execute(_WITH_RESULT, {"ids": ids}):
        args = {**row.args, row.result_as: row.result}
        if problems := problems_of_values(args):
            listed = "; ".join(f"{name}: {', '.join(messages)}" for name, messages in problems.items())
            reason = f"the result of job {row.after_id} cannot be passed as {row.result_as}: {listed}"
            unfit.append((FinalizedJob(row.id, row.name, row.batch_id, row.has_successors), reason))
        else:
            changed.append({"of": row.id, "new_args": args, "now": now})
            released.append(PendingMessage(row.id, row.name, row.queue, row.timeout_seconds))
    if changed:
        connection.execute(_RELEASE_WITH_RESULT, changed)
    if unfit:
        connection.execute(_CANCEL_ONE, [{"of": job.id, "reason": reason, "now": now} for job, reason in unfit])
    if released:
        publish_on_commit(session, released)
    return [job for job, _ in unfit]


def _cancel(session: Session, reasons: Mapping[str, str]) -> list[FinalizedJob]:
    connection, now = session.connection(), utc_now()
    rows = connection.execute(_SUCCESSORS, {"ids": list(reasons)}).all()
    if rows:
        predecessors = {row.after_id for row in rows}
        values = [{"of": id, "reason": reasons[id], "now": now} for id in predecessors]
        connection.execute(_CANCEL_AFTER, values)
    return [FinalizedJob(row.id, row.name, row.batch_id, row.has_successors) for row in rows]


def pages(ids: Iterable[str]) -> Iterator[list[str]]:
    """Return the ids in order, in lists that one statement can have as its values."""
    left = iter(sorted(ids))
    while page := list(islice(left, IDS_PER_STATEMENT)):
        yield page
