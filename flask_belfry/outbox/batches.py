"""Batches: jobs that belong together, and a job that is enqueued when all of them have ended.

Nothing is counted while the jobs run: the batch is finished by the transaction that ends the last of them, when it sees
no live job of the batch. Two transactions that end the last two jobs at the same moment do not see each other: then
the scheduler finishes the batch, through the same function.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
import structlog
from flask import current_app
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from flask_belfry.changes.actor import Actor, Subject, about, current_actor, reference_problems, school_of, use_actor
from flask_belfry.changes.sessions import current_session
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import NotFoundError
from flask_belfry.db import db, table_of
from flask_belfry.db.columns import MAX_INTEGER, UtcDateTime, as_uuid_text, error_text, new_id, text_problem
from flask_belfry.db.lists import among
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope
from flask_belfry.outbox import control
from flask_belfry.outbox.enqueue import enqueue, enqueue_many
from flask_belfry.outbox.errors import BatchStateError, JobArgumentError
from flask_belfry.outbox.finalizing import finish_batches, on_batches_ended
from flask_belfry.outbox.joining import OpenBatch, joining, open_batch
from flask_belfry.outbox.models import BATCH_NAME_CHARACTERS, JobBatch, JobRecord
from flask_belfry.outbox.registry import JobDefinition, definition
from flask_belfry.outbox.requests import JobRequest
from flask_belfry.outbox.states import FINALIZED, JobState
from flask_belfry.outbox.successors import Predecessor, batch_as_predecessor

log = structlog.get_logger(__name__)

# What `then` is given of them, by keyword, if its function has these parameters.
OUTCOME = ("batch_id", "completed", "failed", "cancelled")
# The most batches that one sweep finishes; the next one follows a second later.
SWEEP_BATCHES = 100

_BATCHES, _RECORDS = table_of(JobBatch), table_of(JobRecord)


def _state_of_jobs(function: Any) -> sa.ColumnElement[str]:
    state = function(sa.type_coerce(_RECORDS.c.state, sa.String))
    return sa.select(state).where(_RECORDS.c.batch_id == _BATCHES.c.id).correlate(_BATCHES).scalar_subquery()


# The final states lie together in the alphabet, between `blocked` and the other live ones: the first and the last state
# in the index show whether a job is live, however many jobs the batch has. (NOT EXISTS may read all of them.)
FIRST_FINAL, LAST_FINAL = min(FINALIZED).value, max(FINALIZED).value
_HAS_ENDED = sa.and_(
    _BATCHES.c.finished_at.is_(None),
    sa.func.coalesce(_state_of_jobs(sa.func.max), LAST_FINAL) <= LAST_FINAL,
    sa.func.coalesce(_state_of_jobs(sa.func.min), FIRST_FINAL) >= FIRST_FINAL,
)
# A batch that is locked is being extended, cancelled, retried or finished: the sweep looks at it again.
_LOCK_ENDED = (
    sa.select(_BATCHES.c.id)
    .where(among(_BATCHES.c.id, "ids"), _HAS_ENDED)
    .order_by(_BATCHES.c.id)
    .with_for_update(skip_locked=True)
)
_ENDED = sa.select(_BATCHES.c.id).where(_HAS_ENDED).order_by(_BATCHES.c.id).limit(SWEEP_BATCHES)


def _count(state: JobState) -> sa.ScalarSelect[int]:
    in_state = _RECORDS.c.batch_id == _BATCHES.c.id, _RECORDS.c.state == state
    return sa.select(sa.func.count()).select_from(_RECORDS).where(*in_state).correlate(_BATCHES).scalar_subquery()


# The condition again: this statement also sees the jobs that were committed before the lock was granted.
_FINISH = (
    sa.update(_BATCHES)
    .where(among(_BATCHES.c.id, "ids"), _HAS_ENDED)
    .values(
        finished_at=sa.bindparam("now", type_=UtcDateTime),
        completed=_count(JobState.COMPLETED),
        failed=_count(JobState.FAILED),
        cancelled=_count(JobState.CANCELLED),
    )
    .returning(*_BATCHES.c)
)
_SET_THEN = sa.update(_BATCHES).where(_BATCHES.c.id == sa.bindparam("of")).values(then_job_id=sa.bindparam("then_id"))


@dataclass(frozen=True)
class Batch:
    """A batch to which jobs can be added until it is finished or cancelled."""

    id: str
    _open: OpenBatch = field(repr=False, compare=False)

    def enqueue(self, job: str | JobDefinition[..., Any], /, **options: Any) -> str:
        """Enqueue a job, as `enqueue` does, as one of the batch. Raises BatchStateError too."""
        with joining(current_session(), self._open):
            return enqueue(_name(job), **options)

    def enqueue_many(self, job: str | JobDefinition[..., Any], requests: Iterable[JobRequest]) -> list[str]:
        """Enqueue many, as `enqueue_many` does, as jobs of the batch. Raises BatchStateError too."""
        with joining(current_session(), self._open):
            return enqueue_many(_name(job), requests)

    @contextmanager
    def joining(self) -> Iterator[None]:
        """Add the jobs to the batch that the block enqueues in the current session, such as those of mails; within the
        block of another batch, they are this one's. Enqueuing one raises BatchStateError too."""
        with joining(current_session(), self._open):
            yield


def _name(job: str | JobDefinition[..., Any]) -> str:
    return job if isinstance(job, str) else job.name


@contextmanager
def batch(
    name: str,
    *,
    then: str | JobDefinition[..., Any] | None = None,
    then_args: Mapping[str, Any] | None = None,
    subject: Subject | None = None,
) -> Iterator[Batch]:
    """Write a batch in the current session's transaction. The jobs that the block enqueues in it are the batch's.

    These are also the jobs of hooks, for rows that are flushed in the block. The block is part of one transaction: a
    commit in it may finish the batch.

    Args:
        name: what the batch is for, as operators see it.
        then: the job that is enqueued once all jobs of the batch have ended, however they ended. Its function gets
            those of `batch_id`, `completed`, `failed` and `cancelled` that it has as parameters: the counts of jobs.
        then_args: the other arguments of `then`.
        subject: the row that the batch and `then` are about.

    Raises:
        UnknownJobError: no job is named as `then` says.
        JobArgumentError: the arguments do not fit `then`, or the name or the subject cannot be stored.
        BatchStateError: a batch is open in this transaction already.
    """
    session = current_session()
    if open_batch(session) is not None:
        raise BatchStateError("batches cannot be nested: add the jobs to the open batch")
    if problem := text_problem(name, BATCH_NAME_CHARACTERS):
        raise JobArgumentError(f"the name of a batch {problem}, not {name!r}", {"name": [problem]})
    if problems := reference_problems(subject, None):
        raise JobArgumentError(f"batch {name}: {problems}", problems)
    row = _row(name, _name(then) if then else None, _then_args(then, then_args or {}), subject)
    session.flush()  # what is pending is not part of the block
    session.connection().execute(sa.insert(_BATCHES), row)
    opened = OpenBatch(row["id"])
    opened.note_locked(session)
    with joining(session, opened):
        yield Batch(opened.id, opened)
        session.flush()
    finish_batches(session, [opened.id])


def _row(name: str, then: str | None, then_args: Mapping[str, Any], subject: Subject | None) -> dict[str, Any]:
    actor = current_actor()
    return {
        "id": new_id(),
        "name": name,
        "then_job": then,
        "then_args": then_args,
        "subject_type": subject.type if subject else None,
        "subject_id": subject.id if subject else None,
        "user_id": actor.user_id,
        "school_id": school_of(subject),
        "request_id": actor.request_id,
        "created_at": utc_now(),
    }


def _then_args(then: str | JobDefinition[..., Any] | None, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `then`, with None for those that are known when the batch is finished."""
    if then is None:
        if args:
            raise JobArgumentError("then_args must come with then", {"then_args": ["must come with then"]})
        return {}
    found = definition(_name(then))
    outcome = dict.fromkeys(name for name in OUTCOME if name in found.parameters)
    if given := sorted(outcome.keys() & args.keys()):
        raise JobArgumentError(f"{given[0]} is given to {found.name} by the batch", {given[0]: ["must be absent"]})
    if found.is_singleton:
        raise JobArgumentError(f"{found.name} is a singleton", {"then": ["must not be a singleton"]})
    # With values as long as the longest ones, so that they fit when the batch is finished.
    longest = {name: new_id() if name == "batch_id" else MAX_INTEGER for name in outcome}
    found.check(JobRequest({**args, **longest}))
    return {**args, **outcome}


def get_batch(batch_id: str) -> Batch:
    """Return a batch, to add jobs to it. Raises NotFoundError."""
    id = _record(current_session(), batch_id).id
    return Batch(id, OpenBatch(id))


def _record(session: Session, batch_id: str) -> JobBatch:
    id = as_uuid_text(batch_id)
    record = session.get(JobBatch, id) if id else None
    if record is None:
        raise NotFoundError("This batch does not exist, was pruned, or is visible to admins only.")
    return record


@on_batches_ended
def _finish(session: Session, ids: Collection[str]) -> list[Predecessor]:
    """Finish the batches that have no live job, and enqueue what follows them."""
    opened = open_batch(session)
    ids = sorted(id for id in ids if opened is None or id != opened.id)
    connection = session.connection()
    ended = list(connection.execute(_LOCK_ENDED, {"ids": ids}).scalars()) if ids else []
    if not ended:
        return []
    finished = connection.execute(_FINISH, {"ids": ended, "now": utc_now()}).all()
    with joining(session, None):
        then = [{"of": row.id, "then_id": _enqueue_then(session, row)} for row in finished if row.then_job]
    if then:
        connection.execute(_SET_THEN, then)
    return [batch_as_predecessor(row) for row in finished if row.has_successors]


def _enqueue_then(session: Session, row: Any) -> str:
    subject = Subject(row.subject_type, row.subject_id) if row.subject_type else None
    outcome = {"batch_id": row.id, "completed": row.completed, "failed": row.failed, "cancelled": row.cancelled}
    request = JobRequest({name: outcome.get(name, value) for name, value in row.then_args.items()}, subject=subject)
    actor = Actor(row.user_id, row.request_id, school_id=row.school_id)
    with use_actor(actor), about({subject: row.school_id} if subject else {}):
        try:
            return definition(row.then_job).enqueue_many([request], session=session)[0]
        except SQLAlchemyError:
            raise
        except Exception as error:
            # A deploy has removed or changed the function, or a function of its options raises: the key of its limit.
            # The jobs of the batch must end nevertheless.
            log.exception("batch.then_not_enqueued", batch=row.name, batch_id=row.id, job=row.then_job)
            return _insert_failed(session, row, request, error)


def _insert_failed(session: Session, row: Any, request: JobRequest, error: Exception) -> str:
    record = {
        "id": new_id(),
        "name": row.then_job,
        "queue": "default",
        "state": JobState.FAILED,
        "args": dict(request.args),
        "timeout_seconds": current_app.config["JOB_TIMEOUT_SECONDS"],
        "subject_type": row.subject_type,
        "subject_id": row.subject_id,
        "user_id": row.user_id,
        "school_id": row.school_id,
        "request_id": row.request_id,
        "finished_at": utc_now(),
        "error_type": type(error).__name__,
        "error_message": error_text(error),
    }
    session.connection().execute(sa.insert(_RECORDS), record)
    return record["id"]


def sweep_batches(session: Session) -> int:
    """Finish the batches whose last jobs ended in transactions that did not see each other, and commit.

    Returns:
        how many batches had no live job.
    """
    ended = list(session.connection().execute(_ENDED).scalars())
    if ended:
        finish_batches(session, ended)
    session.commit()
    return len(ended)


def cancel_batch(batch_id: str) -> tuple[list[str], list[str]]:
    """Cancel the live jobs of a batch, as `cancel` does, and refuse additions to it. The caller commits.

    Returns:
        the ids of the cancelled jobs, and of the running ones that were asked to stop.

    Raises:
        NotFoundError: there is no such batch.
        BatchStateError: it is finished.
    """
    session = db.session()
    id = _record(session, batch_id).id
    # Waits for those that are adding jobs.
    is_open = sa.update(JobBatch).where(JobBatch.id == id, JobBatch.finished_at.is_(None))
    changed = is_open.values(cancelled_at=sa.func.coalesce(JobBatch.cancelled_at, utc_now())).returning(JobBatch.id)
    if session.execute(changed, execution_options={"synchronize_session": False}).first() is None:
        raise BatchStateError(f"batch {id} is finished already")
    with use_scope(ALL_TENANTS):  # its jobs may be of several schools
        cancelled = control.cancel_where(JobRecord.batch_id == id)
    finish_batches(session, [id])
    return cancelled


def retry_batch(batch_id: str, *, cancelled: bool = False) -> list[str]:
    """Retry the failed jobs of a batch, as `retry` does; it is open again until they have ended. The caller commits.

    Args:
        batch_id: the batch.
        cancelled: whether to retry the cancelled jobs too.

    Raises:
        NotFoundError: there is no such batch.
        JobStateError: a live job holds the unique key of one of the jobs.
    """
    id = _record(db.session(), batch_id).id
    states = [JobState.FAILED, JobState.CANCELLED] if cancelled else [JobState.FAILED]
    with use_scope(ALL_TENANTS):
        return control.retry_where(JobRecord.batch_id == id, JobRecord.state.in_(states))
