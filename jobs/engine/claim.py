"""Claiming records and ending them. Every UPDATE here is fenced by the claim's number: the latest claim wins."""

from __future__ import annotations

import socket
import traceback
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from app.columns import database_now, utc_now
from app.outbox import (
    TIMED,
    WAITING,
    AttemptOutcome,
    JobAttempt,
    JobRecord,
    JobState,
    Published,
    WorkerProcess,
    hold,
    sources_of,
)
from jobs.engine.errors import JobCancelledError, JobTimeoutError, PoisonPillError
from jobs.engine.retry import RetryPolicy

MAX_TYPE_CHARACTERS = 120
MAX_MESSAGE_CHARACTERS = 2_000
MAX_TRACEBACK_CHARACTERS = 20_000


@dataclass(frozen=True)
class Claim:
    """A record that this worker holds. `number` is the fence; `attempt` counts against `max_attempts`."""

    id: str
    name: str
    queue: str
    args: Mapping[str, Any]
    number: int
    attempt: int
    interruptions: int
    max_attempts: int
    timeout_seconds: int
    started_at: datetime
    worker: str
    user_id: int | None
    request_id: str | None


_COLUMNS = (
    JobRecord.id,
    JobRecord.name,
    JobRecord.queue,
    JobRecord.args,
    JobRecord.claims,
    JobRecord.attempt,
    JobRecord.interruptions,
    JobRecord.max_attempts,
    JobRecord.timeout_seconds,
    JobRecord.started_at,
    JobRecord.worker,
    JobRecord.user_id,
    JobRecord.request_id,
)


def claim(session: Session, ids: Sequence[str], worker: str, *, with_suspects: bool = True) -> list[Claim]:
    """Claims what may run of `ids` with one UPDATE and commits it.

    Args:
        session: a session without changes.
        ids: record ids as they came from RQ; unknown ones and those not due, ended or running are left out.
        worker: the worker's name.
        with_suspects: whether to claim those too that `suspects` tells of.

    Returns:
        the claims, in the order of `ids`.
    """
    now = utc_now()
    is_due = sa.or_(JobRecord.state.not_in(TIMED), JobRecord.scheduled_at <= now)
    may_share = sa.true() if with_suspects else ~_is_suspect()
    is_waiting = JobRecord.state.in_(sources_of(JobState.RUNNING))
    statement = (
        sa.update(JobRecord)
        .where(JobRecord.unlocked(JobRecord.id.in_(ids), is_waiting, is_due, may_share))
        .values(
            state=JobState.RUNNING,
            claims=JobRecord.claims + 1,
            attempt=JobRecord.attempt + 1,
            worker=worker,
            started_at=database_now(),  # the rescue compares it
            finished_at=None,
        )
        .returning(*_COLUMNS)
    )
    rows = session.connection().execute(statement).all()
    session.commit()
    claims = {row.id: Claim(*row) for row in rows}
    return [claims[id] for id in ids if id in claims]


def suspects(session: Session, ids: Collection[str]) -> list[str]:
    """Those of `ids` that fail as a poison pill when their worker dies once more: where many jobs share a process, each
    of them is to run alone, or it is blamed for another's doing."""
    query = sa.select(JobRecord.id).where(JobRecord.id.in_(ids), JobRecord.state.in_(WAITING), _is_suspect())
    return list(session.execute(query).scalars())


def complete(session: Session, results: Sequence[tuple[Claim, Any]]) -> set[str]:
    """Completes claimed records in the open transaction; the caller commits.

    Returns:
        the ids that were completed. The others are lost to a later claim: what was done for them must not commit.
    """
    by_result: dict[str, list[Claim]] = defaultdict(list)
    values: dict[str, Any] = {}
    for claim_, result in results:
        key = repr(result)
        values[key] = result
        by_result[key].append(claim_)
    completed: set[str] = set()
    for key, claims in by_result.items():
        ended = {
            "state": JobState.COMPLETED,
            "result": values[key],
            "error_type": None,
            "error_message": None,
        }
        completed |= _end(session, claims, ended | {"finished_at": utc_now(), "interruptions": 0})
    return completed


def fail(session: Session, claim_: Claim, error: BaseException, policy: RetryPolicy) -> JobState | None:
    """Ends a failed attempt in the open transaction: to be retried, failed or cancelled. The caller commits.

    Returns:
        the state that the record goes to, or None when the claim is lost.
    """
    now = utc_now()
    delay = policy.delay_after(claim_.attempt, error) if claim_.attempt < claim_.max_attempts else None
    values: dict[str, Any] = {"interruptions": 0, **_error_columns(error)}
    if isinstance(error, JobCancelledError) or (delay is not None and _is_cancel_requested(session, claim_)):
        values |= {"state": JobState.CANCELLED, "finished_at": now}
    elif delay is None:
        values |= {"state": JobState.FAILED, "finished_at": now}
    else:
        values |= {"state": JobState.RETRYABLE, "scheduled_at": now + timedelta(seconds=delay)}
    if not _end(session, [claim_], values):
        return None
    _add_attempt(session, claim_, _outcome(error), error)
    if values["state"] is JobState.RETRYABLE:
        hold(session, [_published(claim_, values["scheduled_at"])])
    return values["state"]


def interrupt(session: Session, claim_: Claim, reason: str) -> JobState | None:
    """Ends an attempt whose worker died: no attempt is used up, and the third death in a row fails the job.

    Args:
        reason: what is known of the death: signal, host, worker.

    Returns:
        the state that the record goes to, or None when the claim is lost.
    """
    deaths = claim_.interruptions + 1
    limit = current_app.config["MAX_INTERRUPTIONS"]
    if deaths < limit:
        return _return_to_queue(session, claim_, {"interruptions": deaths}, InterruptedError(reason))
    error = PoisonPillError(f"interrupted {deaths} times in a row, last: {reason}")
    ended = {
        "state": JobState.FAILED,
        "finished_at": utc_now(),
        "interruptions": deaths,
        **_error_columns(error),
    }
    if not _end(session, [claim_], ended):
        return None
    _add_attempt(session, claim_, AttemptOutcome.INTERRUPTED, error)
    return JobState.FAILED


def give_back(session: Session, claims: Iterable[Claim]) -> None:
    """Returns claimed records that were not begun, or may begin again, to the queue: a deploy is no failure."""
    for claim_ in claims:
        give_back_one(session, claim_)


def give_back_one(session: Session, claim_: Claim) -> JobState | None:
    """Returns one claimed record to the queue; None when the claim is lost."""
    return _return_to_queue(session, claim_, {}, None)


def held(claims: Sequence[Claim]) -> sa.Select[str]:
    """The ids of those records that are still held by these claims, as a query that locks them: until its transaction
    ends, nobody takes them away."""
    return sa.select(JobRecord.id).where(_is_held(claims)).with_for_update()


def claims_of(session: Session, *conditions: sa.ColumnElement[bool]) -> list[Claim]:
    """The present claims on running records that meet `conditions`."""
    query = sa.select(*_COLUMNS).where(JobRecord.state == JobState.RUNNING, *conditions)
    return [Claim(*row) for row in session.execute(query)]


def _return_to_queue(
    session: Session, claim_: Claim, values: Mapping[str, Any], error: BaseException | None
) -> JobState | None:
    back = {"state": JobState.PENDING, "attempt": JobRecord.attempt - 1, "enqueued_at": utc_now()}
    if not _end(session, [claim_], {**back, **values}):
        return None
    if error is not None:
        _add_attempt(session, claim_, AttemptOutcome.INTERRUPTED, error)
    hold(session, [_published(claim_, None)])
    return JobState.PENDING


def _is_suspect() -> sa.ColumnElement[bool]:
    return JobRecord.interruptions >= max(1, current_app.config["MAX_INTERRUPTIONS"] - 1)


def _is_cancel_requested(session: Session, claim_: Claim) -> bool:
    query = sa.select(JobRecord.cancel_requested).where(JobRecord.id == claim_.id)
    return bool(session.connection().execute(query).scalar())


def _end(session: Session, claims: Sequence[Claim], values: Mapping[str, Any]) -> set[str]:
    statement = sa.update(JobRecord).where(_is_held(claims)).values(dict(values)).returning(JobRecord.id)
    return set(session.connection().execute(statement).scalars())


def _is_held(claims: Sequence[Claim]) -> sa.ColumnElement[bool]:
    numbers = [(claim_.id, claim_.number) for claim_ in claims]
    return sa.and_(sa.tuple_(JobRecord.id, JobRecord.claims).in_(numbers), JobRecord.state == JobState.RUNNING)


def _add_attempt(session: Session, claim_: Claim, outcome: AttemptOutcome, error: BaseException) -> None:
    formatted = "".join(traceback.format_exception(error)) if error.__traceback__ else None
    # Not this one, when it is the rescue that tells of the worker's end.
    host = sa.select(WorkerProcess.host).where(WorkerProcess.name == claim_.worker).scalar_subquery()
    row = {
        "job_id": claim_.id,
        "number": claim_.attempt,
        "outcome": outcome,
        "worker": claim_.worker,
        "host": sa.func.coalesce(host, socket.gethostname()),
        "started_at": claim_.started_at,
        "traceback": _storable(formatted)[-MAX_TRACEBACK_CHARACTERS:] if formatted else None,
        **_error_columns(error),
    }
    session.connection().execute(sa.insert(JobAttempt).values(row))


def _error_columns(error: BaseException) -> dict[str, str]:
    return {
        "error_type": type(error).__name__[:MAX_TYPE_CHARACTERS],
        "error_message": _storable(_said(error))[:MAX_MESSAGE_CHARACTERS],
    }


def cause_of(error: BaseException) -> str:
    """An error in one phrase: its type, and what lies under it."""
    return f"{type(error).__name__}: {_said(error.__cause__ or error)}"


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        # The end of a job is written whatever its error does.
        return f"<{type(error).__name__} cannot be shown>"


def _storable(text: str) -> str:
    """Text that every database takes: no NUL, which PostgreSQL refuses, and no lone surrogates."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _outcome(error: BaseException) -> AttemptOutcome:
    if isinstance(error, JobCancelledError):
        return AttemptOutcome.CANCELLED
    return AttemptOutcome.TIMED_OUT if isinstance(error, JobTimeoutError) else AttemptOutcome.FAILED


def _published(claim_: Claim, scheduled_at: datetime | None) -> Published:
    return Published(claim_.id, claim_.name, claim_.queue, claim_.timeout_seconds, scheduled_at)
