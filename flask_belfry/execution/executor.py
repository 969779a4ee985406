"""Running claimed jobs: the function's changes and the record's new state commit together, or neither does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import structlog
from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from flask_belfry.core.clock import utc_now
from flask_belfry.core.database_errors import is_transient
from flask_belfry.db import db
from flask_belfry.execution import attempts
from flask_belfry.execution import claim as claims
from flask_belfry.execution.chunk import Chunk
from flask_belfry.execution.claim import Claim
from flask_belfry.execution.commits import commits_forbidden
from flask_belfry.execution.context import on_behalf_of, running
from flask_belfry.execution.errors import ClaimLostError, JobStoppedError, Snooze, UnansweredError
from flask_belfry.execution.hand_over import HandOver
from flask_belfry.execution.results import result_text
from flask_belfry.execution.secrets import secrets_of
from flask_belfry.execution.steps import Stepper
from flask_belfry.execution.time_limits import PageLimit
from flask_belfry.outbox import NO_RETRY, JobState, UnknownJobError
from flask_belfry.outbox.registry import JobDefinition, definition

log = structlog.get_logger(__name__)

DATABASE_RETRY_SECONDS = 1.0
# The delays of a job that met transient database errors, in order. A job that meets more of them may be their cause:
# from then on each is an interruption.
OUTAGE_DELAYS_SECONDS = (0.0, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 240.0, 300.0, 300.0)

T = TypeVar("T")


Limit = Callable[[float], AbstractContextManager[PageLimit]]
ShouldStop = Callable[[], bool]
CompleteLater = Callable[[Claim, str | None], None]
Transitions = list[tuple[str, JobState]]


def run(
    app: Flask,
    items: Sequence[Claim],
    limit: Limit,
    should_stop: ShouldStop = lambda: False,
    complete_later: CompleteLater | None = None,
    hand_over: HandOver | None = None,
) -> Transitions:
    """Run claimed records of one job name, and commit the new state of each.

    Args:
        app: the application in whose context they run.
        items: claims of one name; more than one only for a chunk function.
        limit: accepts seconds and returns a context that raises JobTimeoutError in its block after them.
        should_stop: whether the process is about to end; a chunk function may then release what it has not begun, and
            a job stops between two pages of its steps.
        complete_later: accepts a job that succeeded and changed nothing, and the JSON of its result, for `complete`.
        hand_over: gets the next jobs of the limits whose slots are freed.

    Returns:
        the ids with the states they went to; lost claims and jobs that are completed later are left out.
    """
    with app.app_context(), _logged(items[0]):
        if hand_over is not None:
            hand_over.offer(db.session())
        try:
            found = definition(items[0].name)
        except UnknownJobError as error:
            return _fail(items, error, None)
        if found.chunk is not None:
            return _run_chunk(found, items, limit, should_stop)
        transitions: Transitions = []
        for item in items:
            transitions += _run_one(found, item, limit, should_stop, complete_later)
        return transitions


def _run_one(
    found: JobDefinition[..., Any],
    item: Claim,
    limit: Limit,
    should_stop: ShouldStop,
    complete_later: CompleteLater | None,
) -> Transitions:
    session = db.session()
    with running(item, secrets_of([item]) if found.secrets else None) as job:
        try:
            with on_behalf_of([item]), commits_forbidden(), limit(item.timeout_seconds) as time_limit:
                job.stepper = Stepper(item, session, should_stop, time_limit)
                result = result_text(found.function(session, **item.args))
                job.stepper.check_stopped()
                session.flush()  # pending changes belong to the function too, in its school's scope
            if complete_later is not None and not session.in_transaction():
                complete_later(item, result)
                return []
            if not claims.complete(session, [(item, result)]):
                raise ClaimLostError(f"claim {item.number} of {item.name} is no longer the latest")
            session.commit()
        except BaseException as error:
            cause = job.outage or error
            session.rollback()
            db.session.rollback()  # another one, when the function has removed its own
            return _fail([item], cause, found)
    _log_completed(item)
    return [(item.id, JobState.COMPLETED)]


def complete(
    app: Flask, completions: Sequence[tuple[Claim, str | None]], hand_over: HandOver | None = None
) -> Transitions:
    """Commit the completion of jobs that changed nothing.

    Args:
        app: the application.
        completions: claims and the results of their functions, as JSON.
        hand_over: gets the next jobs of the limits whose slots are freed.

    Returns:
        the ids with the states they went to; lost claims are left out.
    """
    with app.app_context():
        if hand_over is not None:
            hand_over.offer(db.session())
        return _complete_all(completions)


def _complete_all(completions: Sequence[tuple[Claim, str | None]]) -> Transitions:
    def write() -> set[str]:
        completed = claims.complete(db.session(), completions)
        db.session.commit()
        return completed

    try:
        completed = _retry_while_db_unavailable(write)
    except BaseException as error:
        db.session.rollback()
        if len(completions) == 1:
            item = completions[0][0]
            return _fail([item], error, definition(item.name))
        half = len(completions) // 2  # finds the one that cannot be written
        return _complete_all(completions[:half]) + _complete_all(completions[half:])
    for item, _ in completions:
        with _logged(item):
            _log_completed(item) if item.id in completed else log.warning("claim.lost")
    return [(id, JobState.COMPLETED) for id in completed]


def _run_chunk(
    found: JobDefinition[..., Any], items: Sequence[Claim], limit: Limit, should_stop: ShouldStop
) -> Transitions:
    chunk = Chunk(db.session(), items, found.policy(), should_stop)
    failure: BaseException = UnansweredError(f"{found.name} returned without an answer for this record")
    with running(items[0], secrets_of(items) if found.secrets else None, is_chunk=True) as job:
        try:
            with on_behalf_of(items), limit(max(item.timeout_seconds for item in items)):
                found.function(chunk)
        except BaseException as error:
            failure = error
    failure = job.outage or failure
    chunk.session.rollback()
    _retry_while_db_unavailable(lambda: _finish_chunk(chunk, failure))
    _log_chunk(items, chunk)
    return chunk.transitions


def _finish_chunk(chunk: Chunk, failure: BaseException) -> None:
    """Answer what the function has left unanswered; another call continues where the database became unavailable."""
    # Through the chunk, so that the function's own `save` is called in the same transaction.
    for item in chunk.unanswered:
        if (delay_seconds := _outage_delay(item, failure)) is not None:
            chunk.release(item, delay_seconds)
        elif is_transient(failure):
            chunk.interrupt(item, failure)
        else:
            chunk.fail(item, failure)
    chunk.commit()


def _fail(items: Sequence[Claim], error: BaseException, found: JobDefinition[..., Any] | None) -> Transitions:
    """Commit the new states of jobs that raised `error`."""
    if isinstance(error, ClaimLostError):
        log.warning("claim.lost", reason=str(error))
        return []
    policy = found.policy() if found else NO_RETRY

    def write_one(item: Claim) -> JobState | None:
        if isinstance(error, JobStoppedError):
            return attempts.release(db.session(), item)
        if (delay_seconds := _outage_delay(item, error)) is not None:
            return attempts.release(db.session(), item, delay_seconds)
        if is_transient(error):
            return attempts.interrupt(db.session(), item, attempts.cause_of(error))
        return attempts.fail(db.session(), item, error, policy)

    def write() -> list[tuple[Claim, JobState | None]]:
        written = [(item, write_one(item)) for item in items]
        db.session.commit()
        return written

    written = _retry_while_db_unavailable(write)
    for item, state in written:
        _log_failed(item, error, state)
    return [(item.id, state) for item, state in written if state is not None]


def _retry_while_db_unavailable(write: Callable[[], T]) -> T:
    # The record stays `running` until its new state is written: while this worker is alive, no other process does that.
    while True:
        try:
            return write()
        except SQLAlchemyError as error:
            db.session.rollback()
            if not is_transient(error):
                raise
            log.warning("database.away", error=type(error).__name__)
            time.sleep(DATABASE_RETRY_SECONDS)


def _outage_delay(item: Claim, error: BaseException) -> float | None:
    """Return how long a job that met a transient database error waits before it runs again without using an attempt.

    None for other errors, and for a job that has met too many of these.
    """
    released = item.number - item.attempt - item.interruptions - item.snoozes
    if is_transient(error) and released < len(OUTAGE_DELAYS_SECONDS):
        return OUTAGE_DELAYS_SECONDS[released]
    return None


def _log_completed(item: Claim) -> None:
    log.info("job.completed", seconds=_seconds_since(item))


def _log_failed(item: Claim, error: BaseException, state: JobState | None) -> None:
    if state is None:
        log.warning("claim.lost")
        return
    if isinstance(error, Snooze) and state is JobState.SCHEDULED:
        log.info("job.snoozed", seconds=error.seconds, reason=str(error), times=item.snoozes + 1)
        return
    level = log.error if state is JobState.FAILED else log.warning
    level(f"job.{state.value}", attempt=item.attempt, of=item.max_attempts, error=type(error).__name__)


def _log_chunk(items: Sequence[Claim], chunk: Chunk) -> None:
    counts = Counter(state.value for _, state in chunk.transitions)
    are_all_completed = counts[JobState.COMPLETED.value] == len(items)
    level = log.info if are_all_completed else log.error if counts[JobState.FAILED.value] else log.warning
    errors = {"errors": sorted({type(error).__name__ for error in chunk.errors})} if chunk.errors else {}
    level("chunk.ended", records=len(items), **counts, seconds=_seconds_since(items[0]), **errors)


def _seconds_since(item: Claim) -> float:
    from_start = (utc_now() - item.started_at).total_seconds()
    return round(max(0.0, from_start), 3)


@contextmanager
def _logged(item: Claim) -> Iterator[None]:
    with structlog.contextvars.bound_contextvars(job=item.name, job_id=item.id, request_id=item.request_id):
        yield
