"""Claiming records and ending them. Every UPDATE here is fenced by the claim's number: the latest claim wins."""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.db.columns import JsonText, UtcDateTime, database_now, error_text
from flask_belfry.execution.errors import JobCancelledError, PoisonPillError
from flask_belfry.outbox import FINALIZED, JobAttempt, JobRecord, JobState, JobTimeoutError, RetryPolicy, WorkerProcess
from flask_belfry.outbox.finalizing import announce_finalized
from flask_belfry.outbox.locking import unlocked
from flask_belfry.outbox.models import QUARANTINE, AttemptOutcome
from flask_belfry.outbox.pending import PendingMessage, publish_on_commit
from flask_belfry.outbox.states import TIMED, WAITING, sources_of

MAX_TYPE_CHARACTERS = 120
MAX_MESSAGE_CHARACTERS = 2_000
MAX_TRACEBACK_CHARACTERS = 20_000
MAX_INTEGER = 2**31 - 1
LOCK_PAUSES_SECONDS = (0.01, 0.04, 0.2)


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
    suspicion: int
    max_attempts: int
    timeout_seconds: int
    started_at: datetime
    worker: str
    user_id: int | None
    school_id: int | None
    request_id: str | None


_COLUMNS = (
    JobRecord.id,
    JobRecord.name,
    JobRecord.queue,
    JobRecord.args,
    JobRecord.claims,
    JobRecord.attempt,
    JobRecord.interruptions,
    JobRecord.suspicion,
    JobRecord.max_attempts,
    JobRecord.timeout_seconds,
    JobRecord.started_at,
    JobRecord.worker,
    JobRecord.user_id,
    JobRecord.school_id,
    JobRecord.request_id,
)


class Part(Enum):
    """The part of a job in the interruption of its attempt."""

    OWN = "its own, and no other job was near"
    ALONE = "it ran alone in a process that crashed"
    NAMED = "it was seen to crash a process that other jobs shared"
    POSSIBLE = "one of several that ran in a process that crashed"
    NONE = "another job caused it, or this one had not begun"


_IS_QUARANTINED = JobRecord.suspicion >= sa.literal_column(str(QUARANTINE))  # as in the index
# Built once: to build and hash a statement takes longer than to run it.
_RECORDS = table_of(JobRecord)
_IS_HELD = sa.and_(
    sa.tuple_(_RECORDS.c.id, _RECORDS.c.claims).in_(sa.bindparam("held", expanding=True)),
    _RECORDS.c.state == JobState.RUNNING,
)
_HELD = sa.select(_RECORDS.c.id).where(_IS_HELD).with_for_update()
_NOW = sa.bindparam("now", type_=UtcDateTime)
_RESULT = sa.bindparam("value", type_=JsonText)
_MAY_RUN = (
    JobRecord.id.in_(sa.bindparam("ids", expanding=True)),
    JobRecord.state.in_(sources_of(JobState.RUNNING)),
    sa.or_(JobRecord.state.not_in(TIMED), JobRecord.scheduled_at <= _NOW),
    JobRecord.suspicion < sa.bindparam("suspicion_limit"),
)
_PASSED_BY = sa.select(JobRecord.id).where(*_MAY_RUN).limit(1)
_CLAIM = (
    sa.update(_RECORDS)
    .where(_RECORDS.c.id.in_(unlocked(*_MAY_RUN)))
    .values(
        state=JobState.RUNNING,
        claims=_RECORDS.c.claims + 1,
        attempt=_RECORDS.c.attempt + 1,
        worker=sa.bindparam("by"),
        started_at=database_now(),  # the rescue compares it
        finished_at=None,
    )
    .returning(*_COLUMNS)
)
_COMPLETE = (
    sa.update(_RECORDS)
    .where(_IS_HELD)
    .values(
        state=JobState.COMPLETED,
        result=_RESULT,
        error_type=None,
        error_message=None,
        finished_at=_NOW,
        interruptions=0,
        suspicion=0,
    )
    .returning(_RECORDS.c.id)
)
_TELL_RESULT = sa.update(_RECORDS).where(_RECORDS.c.id == sa.bindparam("of")).values(result=_RESULT)


def claim(session: Session, ids: Sequence[str], worker: str, *, with_suspects: bool = True) -> list[Claim]:
    """Claims what may run of `ids` with one UPDATE and commits it.

    A record that somebody has locked is passed by, and asked for again: whoever marks a page of records is done in a
    moment, and its id is in no queue any more. A lock that stays is a frozen process's; the relay comes back to it.

    Args:
        session: a session without changes.
        ids: record ids as they came from RQ; unknown ones and those not due, ended or running are left out.
        worker: the worker's name.
        with_suspects: whether to claim quarantined ones too.

    Returns:
        the claims, in the order of `ids`.
    """
    suspicion_limit = MAX_INTEGER if with_suspects else QUARANTINE
    claims: dict[str, Claim] = {}
    for pause_seconds in (*LOCK_PAUSES_SECONDS, None):
        left = [id for id in ids if id not in claims]
        values = {"ids": left, "now": utc_now(), "by": worker, "suspicion_limit": suspicion_limit}
        rows = session.connection().execute(_CLAIM, values).all()
        session.commit()
        claims |= {row.id: Claim(*row) for row in rows}
        if len(rows) == len(left) or pause_seconds is None or not _has_passed_by(session, values):
            break
        time.sleep(pause_seconds)
    return [claims[id] for id in ids if id in claims]


def _has_passed_by(session: Session, values: Mapping[str, Any]) -> bool:
    found = session.connection().execute(_PASSED_BY, values).first()
    session.rollback()
    return found is not None


def suspects(session: Session, ids: Collection[str]) -> list[str]:
    """Those of `ids` that wait and are quarantined: they run alone, so that a crash is proven to be their doing."""
    query = sa.select(JobRecord.id).where(JobRecord.id.in_(ids), JobRecord.state.in_(WAITING), _IS_QUARANTINED)
    return list(session.execute(query).scalars())


def next_quarantined(session: Session, queues: Sequence[str]) -> str | None:
    """The oldest quarantined job of these queues that is due."""
    is_due = sa.or_(JobRecord.state.not_in(TIMED), JobRecord.scheduled_at <= utc_now())
    conditions = JobRecord.state.in_(WAITING), JobRecord.queue.in_(queues), is_due, _IS_QUARANTINED
    id = session.scalar(unlocked(*conditions).order_by(JobRecord.id).limit(1))
    session.rollback()
    return id


def complete(session: Session, results: Sequence[tuple[Claim, str | None]]) -> set[str]:
    """Completes claimed records in the open transaction; the caller commits.

    Args:
        session: whose transaction.
        results: the claims, each with the JSON of its result.

    Returns:
        the ids that were completed. The others are lost to a later claim: what was done for them must not commit.
    """
    if not results:
        return set()
    connection, first = session.connection(), results[0][1]
    values = {"held": _numbers(claim_ for claim_, _ in results), "value": first, "now": utc_now()}
    completed = set(connection.execute(_COMPLETE, values).scalars())
    others = [{"of": claim_.id, "value": result} for claim_, result in results if result != first]
    if told := [other for other in others if other["of"] in completed]:
        connection.execute(_TELL_RESULT, told)
    finalized = [(claim_.id, claim_.name) for claim_, _ in results if claim_.id in completed]
    announce_finalized(session, finalized, JobState.COMPLETED)
    return completed


def fail(session: Session, claim_: Claim, error: BaseException, policy: RetryPolicy) -> JobState | None:
    """Ends a failed attempt in the open transaction: to be retried, failed or cancelled. The caller commits.

    Returns:
        the state that the record goes to, or None when the claim is lost.
    """
    now = utc_now()
    delay = policy.delay_after(claim_.attempt, error) if claim_.attempt < claim_.max_attempts else None
    values: dict[str, Any] = {"interruptions": 0, "suspicion": 0, **_error_columns(error)}
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
        publish_on_commit(session, [_published(claim_, values["scheduled_at"])])
    return values["state"]


def interrupt(session: Session, claim_: Claim, reason: str, part: Part = Part.OWN) -> JobState | None:
    """Ends an attempt whose worker died: no attempt is used up, and the third death in a row fails the job.

    Only a crash that the job caused itself counts. One beside other jobs counts at most up to the last but one, so that
    a job fails only for what happened while it ran alone.

    Args:
        reason: what is known of the death: signal, host, worker.
        part: the job's part in it.

    Returns:
        the state that the record goes to, or None when the claim is lost.
    """
    deaths = claim_.interruptions + 1
    limit = current_app.config["MAX_INTERRUPTIONS"]
    values: dict[Part, dict[str, Any]] = {
        Part.OWN: {"interruptions": deaths},
        Part.ALONE: {"interruptions": deaths, "suspicion": QUARANTINE},
        Part.NAMED: {"interruptions": max(claim_.interruptions, min(deaths, limit - 1)), "suspicion": QUARANTINE},
        Part.POSSIBLE: {"suspicion": claim_.suspicion + 1},
        Part.NONE: {},
    }
    if deaths < limit or part not in (Part.OWN, Part.ALONE):
        return _return_to_queue(session, claim_, values[part], InterruptedError(reason))
    error = PoisonPillError(f"interrupted {deaths} times in a row, last: {reason}")
    ended = {
        "state": JobState.FAILED,
        "finished_at": utc_now(),
        **values[part],
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


def give_back_one(session: Session, claim_: Claim, delay_seconds: float = 0.0) -> JobState | None:
    """Returns one claimed record to the queue, maybe after a delay; None when the claim is lost."""
    return _return_to_queue(session, claim_, {}, None, delay_seconds)


def held(session: Session, claims: Sequence[Claim]) -> set[str]:
    """The ids of those records that are still held by these claims: until the transaction ends, nobody takes them
    away."""
    return set(session.connection().execute(_HELD, {"held": _numbers(claims)}).scalars())


def claims_of(session: Session, *conditions: sa.ColumnElement[bool]) -> list[Claim]:
    """The present claims on running records that meet `conditions`."""
    query = sa.select(*_COLUMNS).where(JobRecord.state == JobState.RUNNING, *conditions)
    return [Claim(*row) for row in session.execute(query)]


def _return_to_queue(
    session: Session,
    claim_: Claim,
    values: Mapping[str, Any],
    error: BaseException | None,
    delay_seconds: float = 0.0,
) -> JobState | None:
    now = utc_now()
    due_at = now + timedelta(seconds=delay_seconds) if delay_seconds else None
    state = JobState.RETRYABLE if due_at else JobState.PENDING
    back = {"state": state, "attempt": JobRecord.attempt - 1, "enqueued_at": now}
    if due_at:
        back["scheduled_at"] = due_at
    if not _end(session, [claim_], {**back, **values}):
        return None
    if error is not None:
        _add_attempt(session, claim_, AttemptOutcome.INTERRUPTED, error)
    # Behind those that wait it would wait as long again, however quickly it was rescued.
    publish_on_commit(session, [replace(_published(claim_, due_at), goes_first=due_at is None)])
    return state


def _is_cancel_requested(session: Session, claim_: Claim) -> bool:
    query = sa.select(JobRecord.cancel_requested).where(JobRecord.id == claim_.id)
    return bool(session.connection().execute(query).scalar())


def _end(session: Session, claims: Sequence[Claim], values: Mapping[str, Any]) -> set[str]:
    statement = sa.update(_RECORDS).where(_IS_HELD).values(dict(values)).returning(_RECORDS.c.id)
    ended = set(session.connection().execute(statement, {"held": _numbers(claims)}).scalars())
    if (state := values["state"]) in FINALIZED:
        announce_finalized(session, [(claim_.id, claim_.name) for claim_ in claims if claim_.id in ended], state)
    return ended


def _numbers(claims: Iterable[Claim]) -> list[tuple[str, int]]:
    return [(claim_.id, claim_.number) for claim_ in claims]


def _add_attempt(session: Session, claim_: Claim, outcome: AttemptOutcome, error: BaseException) -> None:
    # Not this one, when it is the rescue that tells of the worker's end.
    host = sa.select(WorkerProcess.host).where(WorkerProcess.name == claim_.worker).scalar_subquery()
    formatted = "".join(traceback.format_exception(error)) if error.__traceback__ else None
    row = {
        "job_id": claim_.id,
        "number": claim_.attempt,
        "outcome": outcome,
        "worker": claim_.worker,
        "host": sa.func.coalesce(host, socket.gethostname()),
        "started_at": claim_.started_at,
        "traceback": formatted[-MAX_TRACEBACK_CHARACTERS:] if formatted else None,
        **_error_columns(error),
    }
    session.connection().execute(sa.insert(JobAttempt).values(row))


def _error_columns(error: BaseException) -> dict[str, str]:
    return {
        "error_type": type(error).__name__[:MAX_TYPE_CHARACTERS],
        "error_message": error_text(error)[:MAX_MESSAGE_CHARACTERS],
    }


def cause_of(error: BaseException) -> str:
    """An error in one phrase: its type, and what lies under it."""
    return f"{type(error).__name__}: {error_text(error.__cause__ or error)}"


def _outcome(error: BaseException) -> AttemptOutcome:
    if isinstance(error, JobCancelledError):
        return AttemptOutcome.CANCELLED
    return AttemptOutcome.TIMED_OUT if isinstance(error, JobTimeoutError) else AttemptOutcome.FAILED


def _published(claim_: Claim, scheduled_at: datetime | None) -> PendingMessage:
    return PendingMessage(claim_.id, claim_.name, claim_.queue, claim_.timeout_seconds, scheduled_at)
