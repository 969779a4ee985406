"""How an attempt ends that did not complete its job: failed, snoozed, interrupted or released. Fenced as in `claim`.

Each function moves the record in the open transaction, which the caller commits, and returns the new state; None when
the claim is lost.
"""

from __future__ import annotations

import hashlib
import os
import socket
import traceback
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from flask_belfry.core import sentry
from flask_belfry.core.clock import utc_now
from flask_belfry.core.secrets import mask
from flask_belfry.db.columns import error_text, storable
from flask_belfry.execution.claim import IS_HELD, RECORDS, Claim, held_values
from flask_belfry.execution.errors import JobCancelledError, PoisonPillError, Snooze, SnoozeLimitError
from flask_belfry.execution.limits import free_slots
from flask_belfry.execution.secrets import secrets_of
from flask_belfry.outbox import (
    FINALIZED,
    NO_RETRY,
    JobAttempt,
    JobRecord,
    JobState,
    JobTimeoutError,
    RetryPolicy,
    WorkerProcess,
)
from flask_belfry.outbox.finalizing import FinalizedJob, announce_finalized
from flask_belfry.outbox.models import FINGERPRINT_CHARACTERS, FRAME_CHARACTERS, QUARANTINE, AttemptOutcome
from flask_belfry.outbox.pending import PendingMessage, publish_on_commit

MAX_TYPE_CHARACTERS = 120
MAX_MESSAGE_CHARACTERS = 2_000
MAX_TRACEBACK_CHARACTERS = 20_000
# The folder of this package, as the file names of its code have it.
_BELFRY = f"{Path(__file__).parent.parent}{os.sep}"
_NO_ORIGIN: Mapping[str, str | None] = {"fingerprint": None, "frame": None}


class Part(Enum):
    """The part of a job in the interruption of its attempt."""

    OWN = "its own, and no other job was near"
    ALONE = "it ran alone in a process that crashed"
    NAMED = "it was seen to crash a process that other jobs shared"
    POSSIBLE = "one of several that ran in a process that crashed"
    NONE = "another job caused it, or this one had not begun"


def fail(session: Session, claim: Claim, error: BaseException, policy: RetryPolicy) -> JobState | None:
    """Move the record of a failed attempt to retryable, failed or cancelled; one that raised Snooze, to scheduled."""
    if isinstance(error, Snooze):
        return _snooze(session, claim, error)
    now, origin = utc_now(), _origin(claim, error)
    delay = policy.delay_after(claim.attempt, error) if claim.attempt < claim.max_attempts else None
    values: dict[str, Any] = {"interruptions": 0, "suspicion": 0, **_error_columns(claim, error)}
    values["fingerprint"] = origin["fingerprint"]
    if isinstance(error, JobCancelledError) or (delay is not None and _is_cancel_requested(session, claim)):
        values |= {"state": JobState.CANCELLED, "finished_at": now}
    elif delay is None:
        values |= {"state": JobState.FAILED, "finished_at": now}
    else:
        values |= {"state": JobState.RETRYABLE, "scheduled_at": now + timedelta(seconds=delay)}
    if not _move(session, claim, values):
        return None
    _add_attempt(session, claim, _outcome(error), error, origin)
    if values["state"] is JobState.FAILED:
        sentry.capture_job(error, id=claim.id, name=claim.name, attempt=claim.attempt)
    if values["state"] is JobState.RETRYABLE:
        publish_on_commit(session, [_message(claim, values["scheduled_at"])])
    return values["state"]


def interrupt(session: Session, claim: Claim, reason: str, part: Part = Part.OWN) -> JobState | None:
    """Return a record whose worker crashed to its queue without using an attempt.

    After MAX_INTERRUPTIONS in a row that count, the job fails as a poison pill. Only a crash that the job caused itself
    counts. One beside other jobs counts at most up to the last but one, so that a job fails only for what happened
    while it ran alone.

    Args:
        session: whose transaction.
        claim: the claim of the crashed worker.
        reason: what is known of the crash: signal, host, worker.
        part: the job's part in it.
    """
    latest = _reread(session, claim)
    if latest is None:
        return None
    claim = latest
    interruptions = claim.interruptions + 1
    limit = current_app.config["MAX_INTERRUPTIONS"]
    values: dict[Part, dict[str, Any]] = {
        Part.OWN: {"interruptions": interruptions},
        Part.ALONE: {"interruptions": interruptions, "suspicion": QUARANTINE},
        Part.NAMED: {"interruptions": max(claim.interruptions, min(interruptions, limit - 1)), "suspicion": QUARANTINE},
        Part.POSSIBLE: {"suspicion": claim.suspicion + 1},
        Part.NONE: {},
    }
    if interruptions < limit or part not in (Part.OWN, Part.ALONE):
        return _return_to_queue(session, claim, values[part], InterruptedError(reason))
    error = PoisonPillError(f"interrupted {interruptions} times in a row, last: {reason}")
    origin = _origin(claim, error)
    failed = {"state": JobState.FAILED, "finished_at": utc_now(), **values[part], **_error_columns(claim, error)}
    if not _move(session, claim, failed | {"fingerprint": origin["fingerprint"]}):
        return None
    _add_attempt(session, claim, AttemptOutcome.INTERRUPTED, error, origin)
    sentry.capture_job(error, id=claim.id, name=claim.name, attempt=claim.attempt)
    return JobState.FAILED


def release(session: Session, claim: Claim, delay_seconds: float = 0.0) -> JobState | None:
    """Return a record to its queue, immediately or after a delay: a deploy is not a failure. A job that a user asked
    to stop is cancelled instead, here and after an interruption."""
    return _return_to_queue(session, claim, {}, None, delay_seconds)


def _snooze(session: Session, claim: Claim, snooze: Snooze) -> JobState | None:
    """Schedule a job again that cannot run yet, without using an attempt, at most MAX_SNOOZES times."""
    if _is_cancel_requested(session, claim):
        return _cancel(session, claim)
    if claim.snoozes >= current_app.config["MAX_SNOOZES"]:
        reason = f"; the last reason: {snooze}" if str(snooze) else ""
        error = SnoozeLimitError(f"snoozed {claim.snoozes} times, the most that MAX_SNOOZES allows{reason}")
        return fail(session, claim, error, NO_RETRY)
    due_at = utc_now() + timedelta(seconds=snooze.seconds)
    values = {
        "state": JobState.SCHEDULED,
        "scheduled_at": due_at,
        "attempt": JobRecord.attempt - 1,
        "snoozes": claim.snoozes + 1,
        "interruptions": 0,
        "suspicion": 0,
    }
    if not _move(session, claim, values):
        return None
    _add_attempt(session, claim, AttemptOutcome.SNOOZED, snooze)
    publish_on_commit(session, [_message(claim, due_at)])
    return JobState.SCHEDULED


def _cancel(session: Session, claim: Claim) -> JobState | None:
    """Cancel a record that would run again: a user has requested its job to stop."""
    return fail(session, claim, JobCancelledError("cancelled by a user"), NO_RETRY)


def cause_of(error: BaseException) -> str:
    """Return an error in one phrase: its type, and the text of the error that caused it."""
    return f"{type(error).__name__}: {error_text(error.__cause__ or error)}"


def _return_to_queue(
    session: Session,
    claim: Claim,
    values: Mapping[str, Any],
    error: BaseException | None,
    delay_seconds: float = 0.0,
) -> JobState | None:
    if _is_cancel_requested(session, claim):
        return _cancel(session, claim)
    now = utc_now()
    due_at = now + timedelta(seconds=delay_seconds) if delay_seconds else None
    state = JobState.RETRYABLE if due_at else JobState.PENDING
    back = {"state": state, "attempt": JobRecord.attempt - 1, "enqueued_at": now}
    if due_at:
        back["scheduled_at"] = due_at
    if not _move(session, claim, {**back, **values}):
        return None
    if error is not None:
        _add_attempt(session, claim, AttemptOutcome.INTERRUPTED, error)
    # At the end of its queue it would wait as long again, however quickly it was rescued.
    publish_on_commit(session, [replace(_message(claim, due_at), goes_first=due_at is None)])
    return state


def _move(session: Session, claim: Claim, values: Mapping[str, Any]) -> bool:
    """Update the record; return False when the claim is lost."""
    statement = sa.update(RECORDS).where(IS_HELD).values(dict(values)).returning(RECORDS.c.has_successors)
    moved = session.connection().execute(statement, held_values([claim])).first()
    if moved is not None and (state := values["state"]) in FINALIZED:
        job = FinalizedJob(claim.id, claim.name, claim.batch_id, moved.has_successors)
        announce_finalized(session, [job], state)
    if moved is not None and claim.limit_key is not None:
        free_slots(session, [claim.limit_key])
    return moved is not None


def _reread(session: Session, claim: Claim) -> Claim | None:
    """Return the claim with its counters as they are now: a committed page of steps has reset them. None when lost."""
    query = sa.select(RECORDS.c.interruptions, RECORDS.c.suspicion).where(IS_HELD)
    row = session.connection().execute(query, held_values([claim])).first()
    return None if row is None else replace(claim, interruptions=row.interruptions, suspicion=row.suspicion)


def _is_cancel_requested(session: Session, claim: Claim) -> bool:
    # Locked: a request that is being committed would otherwise be overlooked, and its job would run again.
    query = sa.select(JobRecord.cancel_requested).where(JobRecord.id == claim.id).with_for_update()
    return bool(session.connection().execute(query).scalar())


def _add_attempt(
    session: Session,
    claim: Claim,
    outcome: AttemptOutcome,
    error: BaseException,
    origin: Mapping[str, str | None] = _NO_ORIGIN,
) -> None:
    # The rescuer records attempts of workers on other hosts.
    host = sa.select(WorkerProcess.host).where(WorkerProcess.name == claim.worker).scalar_subquery()
    has_traceback = error.__traceback__ is not None and outcome is not AttemptOutcome.SNOOZED
    formatted = "".join(traceback.format_exception(error)) if has_traceback else ""
    shown = mask(formatted, secrets_of([claim]))[-MAX_TRACEBACK_CHARACTERS:]
    row = {
        "job_id": claim.id,
        "number": claim.attempt,
        "outcome": outcome,
        "worker": claim.worker,
        "host": sa.func.coalesce(host, socket.gethostname()),
        "started_at": claim.started_at,
        "traceback": shown or None,
        **_error_columns(claim, error),
        **origin,
    }
    session.connection().execute(sa.insert(JobAttempt).values(row))


def _error_columns(claim: Claim, error: BaseException) -> dict[str, str]:
    return {
        "error_type": type(error).__name__[:MAX_TYPE_CHARACTERS],
        "error_message": mask(error_text(error), secrets_of([claim]))[:MAX_MESSAGE_CHARACTERS],
    }


def _origin(claim: Claim, error: BaseException) -> Mapping[str, str | None]:
    """Return the columns by which attempts with the same cause are grouped."""
    if isinstance(error, JobCancelledError):
        return _NO_ORIGIN
    frame = frame_of(error, Path(current_app.root_path).parent)
    text = "\n".join((claim.name, type(error).__name__, frame or ""))
    fingerprint = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:FINGERPRINT_CHARACTERS]
    return {"fingerprint": fingerprint, "frame": frame}


def frame_of(error: BaseException, root: Path) -> str | None:
    """Return the innermost frame of the application in which an error was raised, as "file:function".

    It has no line number, so that the same fault has the same frame after a change above it. Frames of flask_belfry,
    and then those of libraries, only count when there is none of the application.

    Args:
        error: the error.
        root: the folder of the application's code, to which its files are relative.
    """
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [code for code in codes if _is_own(code.co_filename, f"{root}{os.sep}")]
    of_belfry = [code for code in codes if code.co_filename.startswith(_BELFRY)]
    for found, folder in ((own, root), (of_belfry, Path(_BELFRY).parent), (codes, None)):
        if found:
            path = Path(found[-1].co_filename)
            name = path.relative_to(folder) if folder else path.name
            return storable(f"{name}:{found[-1].co_qualname}")[-FRAME_CHARACTERS:]
    return None


def _is_own(filename: str, root: str) -> bool:
    is_library = filename.startswith(_BELFRY) or f"{os.sep}site-packages{os.sep}" in filename
    return filename.startswith(root) and not is_library


def _outcome(error: BaseException) -> AttemptOutcome:
    if isinstance(error, JobCancelledError):
        return AttemptOutcome.CANCELLED
    return AttemptOutcome.TIMED_OUT if isinstance(error, JobTimeoutError) else AttemptOutcome.FAILED


def _message(claim: Claim, scheduled_at: datetime | None) -> PendingMessage:
    return PendingMessage(claim.id, claim.name, claim.queue, claim.timeout_seconds, scheduled_at)
