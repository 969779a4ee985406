"""Claiming records and completing them. Every UPDATE is fenced by the claim's number: the latest claim wins."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.db.columns import MAX_INTEGER, JsonText, database_now
from flask_belfry.db.lists import among_numbered
from flask_belfry.execution.admission import IS_FREE, MAY_RUN, admit
from flask_belfry.execution.limits import free_slots
from flask_belfry.outbox import JobRecord, JobState
from flask_belfry.outbox.finalizing import FinalizedJob, announce_finalized
from flask_belfry.outbox.locking import unlocked
from flask_belfry.outbox.models import QUARANTINE
from flask_belfry.outbox.pauses import NOW

LOCK_PAUSES_SECONDS = (0.01, 0.04, 0.2)


@dataclass(frozen=True)
class Claim:
    """A record claimed by a worker. `number` is the fence; `attempt` counts against `max_attempts`."""

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
    batch_id: str | None = None
    limit_key: str | None = None
    snoozes: int = 0
    cursor: Mapping[str, Any] | None = None


COLUMNS = (
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
    JobRecord.batch_id,
    JobRecord.limit_key,
    JobRecord.snoozes,
    JobRecord.cursor,
)


# Statements are built once: to build and hash one takes longer than to run it.
RECORDS = table_of(JobRecord)
IS_HELD = sa.and_(
    among_numbered(RECORDS.c.id, RECORDS.c.claims, "held"),
    RECORDS.c.state == JobState.RUNNING,
)
_RESULT = sa.bindparam("value", type_=JsonText)
RUNNING = {
    "state": JobState.RUNNING,
    "claims": RECORDS.c.claims + 1,
    "attempt": RECORDS.c.attempt + 1,
    "worker": sa.bindparam("by"),
    "started_at": database_now(),  # the rescuer compares it
    "finished_at": None,
    "rate_slot_at": None,
    "progress_done": None,
    "progress_total": None,
    "progress_text": None,
}
_CLAIM = sa.update(RECORDS).where(RECORDS.c.id.in_(unlocked(*MAY_RUN, *IS_FREE))).values(RUNNING).returning(*COLUMNS)
_CLAIM_ADMITTED = sa.update(RECORDS).where(*MAY_RUN).values(RUNNING).returning(*COLUMNS)
_COMPLETE = (
    sa.update(RECORDS)
    .where(IS_HELD)
    .values(
        state=JobState.COMPLETED,
        result=_RESULT,
        error_type=None,
        error_message=None,
        finished_at=NOW,
        interruptions=0,
        suspicion=0,
    )
    .returning(RECORDS.c.id, RECORDS.c.has_successors)
)
_SET_RESULT = sa.update(RECORDS).where(RECORDS.c.id == sa.bindparam("of")).values(result=_RESULT)


def claim(session: Session, ids: Sequence[str], worker: str, *, with_quarantined: bool = True) -> list[Claim]:
    """Claim what may run of `ids` with one UPDATE, and commit it. Jobs that are limited, paused or expired need another
    transaction, in which they are claimed, blocked, given a later start or cancelled.

    A record that another transaction has locked is skipped and tried again: marking a page of records takes a moment,
    and its id is in no queue any more. A lock that remains is a frozen process's; the relay publishes the id later.

    Args:
        session: a session without changes.
        ids: record ids as they came from RQ; unknown ones and those not due, finalized or running are left out.
        worker: the worker's name.
        with_quarantined: whether to claim quarantined ones too.

    Returns:
        the claims, in the order of `ids`.
    """
    suspicion_limit = MAX_INTEGER if with_quarantined else QUARANTINE
    claims: dict[str, Claim] = {}
    for pause_seconds in (*LOCK_PAUSES_SECONDS, None):
        left = [id for id in ids if id not in claims]
        values = {"ids": left, "now": utc_now(), "by": worker, "suspicion_limit": suspicion_limit}
        rows = session.connection().execute(_CLAIM, values).all()
        session.commit()
        claims |= {row.id: Claim(*row) for row in rows}
        if len(rows) == len(left):
            break
        admitted, has_skipped = _claim_admitted(session, {**values, "ids": [id for id in left if id not in claims]})
        claims |= admitted
        if pause_seconds is None or not has_skipped:
            break
        time.sleep(pause_seconds)
    return [claims[id] for id in ids if id in claims]


def _claim_admitted(session: Session, values: Mapping[str, Any]) -> tuple[dict[str, Claim], bool]:
    """Claim the limited jobs that may run now; return them, and whether another transaction has locked one."""
    admission = admit(session, values)
    claims: dict[str, Claim] = {}
    if admission.admitted:
        rows = session.connection().execute(_CLAIM_ADMITTED, {**values, "ids": admission.admitted})
        claims = {row.id: Claim(*row) for row in rows}
    session.commit()
    return claims, admission.has_skipped


def complete(session: Session, completions: Sequence[tuple[Claim, str | None]]) -> set[str]:
    """Complete claimed records in the open transaction; the caller commits.

    Args:
        session: whose transaction.
        completions: the claims, each with the JSON of its result.

    Returns:
        the ids that were completed. The others are lost to a later claim: what was done for them must not commit.
    """
    if not completions:
        return set()
    connection, first = session.connection(), completions[0][1]
    held = held_values(claim for claim, _ in completions)
    rows = connection.execute(_COMPLETE, {**held, "value": first, "now": utc_now()})
    completed: dict[str, bool] = {row.id: row.has_successors for row in rows}
    others = [{"of": claim.id, "value": result} for claim, result in completions if result != first]
    if results := [other for other in others if other["of"] in completed]:
        connection.execute(_SET_RESULT, results)
    finalized = [
        FinalizedJob(claim.id, claim.name, claim.batch_id, completed[claim.id])
        for claim, _ in completions
        if claim.id in completed
    ]
    announce_finalized(session, finalized, JobState.COMPLETED)
    free_slots(session, [claim.limit_key for claim, _ in completions if claim.id in completed and claim.limit_key])
    return set(completed)


def claims_of(session: Session, *conditions: sa.ColumnElement[bool]) -> list[Claim]:
    """Return the current claims on running records that meet `conditions`."""
    query = sa.select(*COLUMNS).where(JobRecord.state == JobState.RUNNING, *conditions)
    return [Claim(*row) for row in session.execute(query)]


def held_values(claims: Iterable[Claim]) -> dict[str, Any]:
    """Return the parameters of IS_HELD."""
    return {"held": [(claim.id, claim.number) for claim in claims]}
