"""Running claimed jobs: the function's changes and the record's end commit together, or neither does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import structlog
from flask import Flask
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from flask_belfry.changes import Actor, use_actor
from flask_belfry.core.clock import utc_now
from flask_belfry.core.database_errors import is_transient
from flask_belfry.db import db
from flask_belfry.db.tenancy import scope_of, use_scope
from flask_belfry.execution import claim as claims
from flask_belfry.execution.chunk import Chunk
from flask_belfry.execution.claim import Claim
from flask_belfry.execution.commits import commits_forbidden
from flask_belfry.execution.context import running
from flask_belfry.execution.errors import ClaimLostError, UnansweredError
from flask_belfry.execution.results import result_text
from flask_belfry.outbox import NO_RETRY, JobState, UnknownJobError
from flask_belfry.outbox.registry import JobDefinition, definition

log = structlog.get_logger(__name__)

DATABASE_RETRY_SECONDS = 1.0
# The waits of a job that met a transient error of the database, one after the other. One that meets more of them may be
# their cause: from then on each is an interruption.
OUTAGE_DELAYS_SECONDS = (0.0, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 240.0, 300.0, 300.0)

T = TypeVar("T")


Limit = Callable[[float], AbstractContextManager[None]]
ShouldStop = Callable[[], bool]
EndLater = Callable[[Claim, str | None], None]
Ends = list[tuple[str, JobState]]


def run(
    app: Flask,
    items: Sequence[Claim],
    limit: Limit,
    should_stop: ShouldStop = lambda: False,
    end_later: EndLater | None = None,
) -> Ends:
    """Runs claimed records of one job name, each to an end that is committed.

    Args:
        app: the application in whose context they run.
        items: claims of one name; more than one only for a chunk function.
        limit: takes seconds and gives a context that raises JobTimeoutError in its block after them.
        should_stop: whether the process is about to end; a chunk function may then release what it has not begun.
        end_later: takes a job that is done and has changed nothing, and the JSON of its result, for `complete`.

    Returns:
        the ids with the states they went to; claims that were lost and jobs that end later are not among them.
    """
    ends: Ends = []
    with app.app_context(), _observed(items[0]):
        try:
            found = definition(items[0].name)
        except UnknownJobError as error:
            ends += _end_failed(items, error, None)
        else:
            if found.chunk is None:
                for item in items:
                    ends += _run_one(found, item, limit, end_later)
            else:
                ends += _run_chunk(found, items, limit, should_stop)
    return ends


def complete(app: Flask, done: Sequence[tuple[Claim, str | None]]) -> Ends:
    """Commits the completion of jobs that have changed nothing.

    Args:
        app: the application.
        done: claims and the results of their functions, as JSON.

    Returns:
        the ids with the states they went to; claims that were lost are not among them.
    """

    with app.app_context():
        return _complete_all(done)


def _complete_all(done: Sequence[tuple[Claim, str | None]]) -> Ends:
    def end() -> set[str]:
        completed = claims.complete(db.session(), done)
        db.session.commit()
        return completed

    try:
        completed = _until_database_answers(end)
    except BaseException as error:
        db.session.rollback()
        if len(done) == 1:
            return _end_failed([done[0][0]], error, definition(done[0][0].name))
        half = len(done) // 2
        return _complete_all(done[:half]) + _complete_all(done[half:])
    for item, _ in done:
        with _observed(item):
            _log_completed(item) if item.id in completed else log.warning("claim.lost")
    return [(id, JobState.COMPLETED) for id in completed]


def _run_one(found: JobDefinition[..., Any], item: Claim, limit: Limit, end_later: EndLater | None) -> Ends:
    session = db.session()
    with running(item) as job:
        try:
            with _on_behalf_of([item]), commits_forbidden(), limit(item.timeout_seconds):
                result = result_text(found.function(session, **item.args))
                session.flush()  # what the function has left to it is the job's doing too, in its school's scope
            if end_later is not None and not session.in_transaction():
                end_later(item, result)
                return []
            _complete(session, item, result)
        except BaseException as error:
            cause = job.outage or error
            session.rollback()
            db.session.rollback()  # another one, when the function has removed its own
            return _end_failed([item], cause, found)
    _log_completed(item)
    return [(item.id, JobState.COMPLETED)]


def _complete(session: Session, item: Claim, result: str | None) -> None:
    if not claims.complete(session, [(item, result)]):
        raise ClaimLostError(f"claim {item.number} of {item.name} is no longer the latest")
    session.commit()


def _run_chunk(found: JobDefinition[..., Any], items: Sequence[Claim], limit: Limit, should_stop: ShouldStop) -> Ends:
    chunk = Chunk(db.session(), items, found.policy(), should_stop)
    failure: BaseException = UnansweredError(f"{found.name} returned without an answer for this record")
    with running(items[0]) as job:
        try:
            with _on_behalf_of(items), limit(max(item.timeout_seconds for item in items)):
                found.function(chunk)
        except BaseException as error:
            failure = error
    failure = job.outage or failure
    chunk.session.rollback()
    _until_database_answers(lambda: _end_chunk(chunk, failure))
    _log_chunk(items, chunk)
    return chunk.ends


def _end_chunk(chunk: Chunk, failure: BaseException) -> None:
    """Ends what the function has left unanswered; called again it goes on where the database left it."""
    # Through the chunk, so that the function's own `save` learns of it in the same transaction.
    for item in chunk.unanswered:
        if (delay_seconds := _delay_after(item, failure)) is not None:
            chunk.release(item, delay_seconds)
        elif is_transient(failure):
            chunk.interrupt(item, failure)
        else:
            chunk.fail(item, failure)
    chunk.settle()


def _log_chunk(items: Sequence[Claim], chunk: Chunk) -> None:
    counts = Counter(state.value for _, state in chunk.ends)
    is_well = counts[JobState.COMPLETED.value] == len(items)
    tell = log.info if is_well else log.error if counts[JobState.FAILED.value] else log.warning
    errors = {"errors": sorted({type(error).__name__ for error in chunk.errors})} if chunk.errors else {}
    tell("chunk.ended", records=len(items), **counts, seconds=_seconds_since(items[0]), **errors)


def _end_failed(items: Sequence[Claim], error: BaseException, found: JobDefinition[..., Any] | None) -> Ends:
    """Records the end of failed attempts; while the database is away, it waits for it."""
    if isinstance(error, ClaimLostError):
        log.warning("claim.lost", reason=str(error))
        return []
    policy = found.policy() if found else NO_RETRY

    def end_one(item: Claim) -> JobState | None:
        if (delay_seconds := _delay_after(item, error)) is not None:
            return claims.give_back_one(db.session(), item, delay_seconds)
        if is_transient(error):
            return claims.interrupt(db.session(), item, claims.cause_of(error))
        return claims.fail(db.session(), item, error, policy)

    def end() -> list[tuple[Claim, JobState | None]]:
        ended = [(item, end_one(item)) for item in items]
        db.session.commit()
        return ended

    ended = _until_database_answers(end)
    for item, state in ended:
        _log_end(item, error, state)
    return [(item.id, state) for item, state in ended if state is not None]


def _until_database_answers(record: Callable[[], T]) -> T:
    # The record stays `running` until its end is written; this worker is alive, so nobody else will write it.
    while True:
        try:
            return record()
        except SQLAlchemyError as error:
            db.session.rollback()
            if not is_transient(error):
                raise
            log.warning("database.away", error=type(error).__name__)
            time.sleep(DATABASE_RETRY_SECONDS)


def _delay_after(item: Claim, error: BaseException) -> float | None:
    """How long a job waits that met a transient error of the database: no fault of its own, it begins again without a
    count. None for other errors, and when it has met too many of these."""
    given_back = item.number - item.attempt - item.interruptions
    if is_transient(error) and given_back < len(OUTAGE_DELAYS_SECONDS):
        return OUTAGE_DELAYS_SECONDS[given_back]
    return None


def _log_end(item: Claim, error: BaseException, state: JobState | None) -> None:
    if state is None:
        log.warning("claim.lost")
        return
    level = log.error if state is JobState.FAILED else log.warning
    level(f"job.{state.value}", attempt=item.attempt, of=item.max_attempts, error=type(error).__name__)


def _log_completed(item: Claim) -> None:
    log.info("job.completed", seconds=_seconds_since(item))


def _seconds_since(item: Claim) -> float:
    from_start = (utc_now() - item.started_at).total_seconds()
    return round(max(0.0, from_start), 3)


@contextmanager
def _observed(item: Claim) -> Iterator[None]:
    with structlog.contextvars.bound_contextvars(job=item.name, job_id=item.id, request_id=item.request_id):
        yield


@contextmanager
def _on_behalf_of(items: Sequence[Claim]) -> Iterator[None]:
    """What the function writes and asks for is its record's school's, and of others it sees nothing; a chunk of several
    schools is the system's."""
    first, schools = items[0], {item.school_id for item in items}
    school_id = first.school_id if len(schools) == 1 else None
    actor = Actor(first.user_id, first.request_id, first.id, school_id)
    with use_actor(actor), use_scope(scope_of(school_id)):
        yield
