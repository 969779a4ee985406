"""The admission of jobs that a worker cannot claim with its one UPDATE: limited, paused and expired ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.db.lists import among
from flask_belfry.execution import limits
from flask_belfry.execution.errors import JobExpiredError
from flask_belfry.outbox import JobRecord, JobState
from flask_belfry.outbox.finalizing import FinalizedJob, announce_finalized
from flask_belfry.outbox.locking import is_in
from flask_belfry.outbox.models import BlockedBy, PauseKind
from flask_belfry.outbox.pauses import NOW, is_paused
from flask_belfry.outbox.pending import PendingMessage, publish_on_commit
from flask_belfry.outbox.states import CLAIMABLE, TIMED, WAITING, sources_of

# The most expired jobs that one transaction cancels.
PAGE_RECORDS = 1_000

_RECORDS = table_of(JobRecord)
IDS = among(JobRecord.id, "ids")
# The jobs that a worker may claim if nothing holds them back; the parameters are those of `claim`.
MAY_RUN = (
    IDS,
    is_in(CLAIMABLE),
    sa.or_(JobRecord.state.not_in(TIMED), JobRecord.scheduled_at <= NOW),
    JobRecord.suspicion < sa.bindparam("suspicion_limit"),
)
# Those among them that need no admission.
IS_FREE = (
    JobRecord.limit_key.is_(None),
    sa.or_(JobRecord.expires_at.is_(None), JobRecord.expires_at > NOW),
    sa.not_(is_paused(PauseKind.QUEUE, PauseKind.JOB)),
)
_COLUMNS = (
    JobRecord.id,
    JobRecord.name,
    JobRecord.queue,
    JobRecord.timeout_seconds,
    JobRecord.batch_id,
    JobRecord.has_successors,
    JobRecord.limit_key,
    JobRecord.rate_slot_at,
    JobRecord.expires_at,
)
_CANDIDATES = sa.select(*_COLUMNS, is_paused(*PauseKind).label("is_paused")).where(*MAY_RUN)
_LOCKED = _CANDIDATES.with_for_update(skip_locked=True, of=JobRecord)
_EXPIRED = (
    sa.select(*_COLUMNS)
    .where(JobRecord.can_expire(), JobRecord.expires_at <= NOW)
    .order_by(JobRecord.expires_at)
    .limit(PAGE_RECORDS)
    .with_for_update(skip_locked=True)
)


def _is_one_of(states: Iterable[JobState]) -> sa.ColumnElement[bool]:
    # An IN is expanded for each execution, which SQLAlchemy refuses for many rows of parameters.
    return sa.or_(*(_RECORDS.c.state == state for state in sorted(states)))


_OF_ID = _RECORDS.c.id == sa.bindparam("of")
_SCHEDULE = (
    sa.update(_RECORDS)
    .where(_OF_ID, _is_one_of(sources_of(JobState.SCHEDULED) & WAITING))
    .values(state=JobState.SCHEDULED, scheduled_at=sa.bindparam("at"), rate_slot_at=sa.bindparam("at"))
)
_BLOCK = (
    sa.update(_RECORDS)
    .where(IDS, _RECORDS.c.state.in_(sources_of(JobState.BLOCKED)))
    .values(state=JobState.BLOCKED, blocked_by=sa.bindparam("reason"))
)
# A start time that passes during a pause is lost: after it, all of these would start together.
_BLOCK_PAUSED = _BLOCK.values(rate_slot_at=None)
_CANCEL = (
    sa.update(_RECORDS)
    .where(_OF_ID, _is_one_of(WAITING))
    .values(
        state=JobState.CANCELLED,
        finished_at=NOW,
        blocked_by=None,
        error_type=JobExpiredError.__name__,
        error_message=sa.bindparam("message"),
    )
)


@dataclass
class Admission:
    """What was decided for the jobs of one claim.

    Args:
        admitted: the ids of the jobs that the caller sets to running, in the same transaction.
        has_skipped: whether another transaction has locked a job that may run.
    """

    admitted: list[str] = field(default_factory=list)
    has_skipped: bool = False


@dataclass
class Decisions:
    """Where each of several jobs goes.

    Args:
        running: how many jobs run, by limit key; it includes the admitted ones.
        next_starts: the next start times by limit key; it includes those of the admitted and scheduled jobs.
    """

    running: Counter[str]
    next_starts: dict[str, datetime | None]
    admitted: list[str] = field(default_factory=list)
    without_slot: list[str] = field(default_factory=list)
    paused: list[Any] = field(default_factory=list)
    expired: list[Any] = field(default_factory=list)
    scheduled: list[tuple[Any, datetime]] = field(default_factory=list)

    def add(self, row: Any, now: datetime) -> None:
        """Decide for one more job, a row of _COLUMNS and `is_paused`."""
        if _is_expired(row, now):
            self.expired.append(row)
        elif row.is_paused:
            self.paused.append(row)
        elif row.limit_key is None:
            self.admitted.append(row.id)
        elif not limits.has_slot(row.name, self.running[row.limit_key]):
            self.without_slot.append(row.id)
        elif (start_at := self._start(row, now)) > now:
            self.scheduled.append((row, start_at))
        else:
            self.running[row.limit_key] += 1
            self.admitted.append(row.id)

    def _start(self, row: Any, now: datetime) -> datetime:
        limit = limits.limit_of(row.name)
        if limit is None or limit.per_minute is None or row.rate_slot_at is not None:
            return now
        key = row.limit_key
        start_at, self.next_starts[key] = limits.start_after(self.next_starts[key], limit.per_minute, now)
        return start_at

    def unused_turns(self) -> Counter[str]:
        """Return the limit keys of the jobs that needed no slot: each may have been released for one that is free."""
        rows = [*self.expired, *self.paused, *(row for row, _ in self.scheduled)]
        return Counter(row.limit_key for row in rows if row.limit_key is not None)


def admit(session: Session, values: Mapping[str, Any]) -> Admission:
    """Decide which jobs may run now, and block, schedule or cancel the others. The caller commits.

    Args:
        session: a session without changes.
        values: the parameters of MAY_RUN.
    """
    connection, now = session.connection(), values["now"]
    found = connection.execute(_CANDIDATES, values).all()
    held_back = [row for row in found if row.limit_key is not None or row.is_paused or _is_expired(row, now)]
    if not held_back:
        return Admission(has_skipped=bool(found))
    # Before the jobs: a transaction that has locked a key never waits for a job.
    keys = {row.limit_key for row in held_back if row.limit_key is not None}
    next_starts = limits.lock(session, keys) if keys else {}
    running = limits.count_running(session, keys) if keys else Counter[str]()
    decisions = Decisions(running, dict(next_starts))
    locked = {row.id: row for row in connection.execute(_LOCKED, {**values, "ids": [row.id for row in held_back]})}
    for id in values["ids"]:
        if id in locked:
            decisions.add(locked[id], now)
    _write(session, decisions, now)
    if decisions.next_starts != next_starts:
        limits.set_next_starts(session, decisions.next_starts)
    return Admission(decisions.admitted, has_skipped=len(locked) < len(found))


def cancel_expired(session: Session) -> Iterator[int]:
    """Cancel the waiting jobs that have expired, page by page. Commits."""
    count = PAGE_RECORDS
    while count == PAGE_RECORDS:
        now = utc_now()
        rows = session.connection().execute(_EXPIRED, {"now": now}).all()
        _cancel(session, rows, now)
        session.commit()
        count = len(rows)
        yield count


def _is_expired(row: Any, now: datetime) -> bool:
    return row.expires_at is not None and row.expires_at <= now


def _write(session: Session, decisions: Decisions, now: datetime) -> None:
    connection = session.connection()
    if decisions.without_slot:
        connection.execute(_BLOCK, {"ids": decisions.without_slot, "reason": BlockedBy.LIMIT})
    if decisions.paused:
        connection.execute(_BLOCK_PAUSED, {"ids": [row.id for row in decisions.paused], "reason": BlockedBy.PAUSE})
    if decisions.scheduled:
        connection.execute(_SCHEDULE, [{"of": row.id, "at": start_at} for row, start_at in decisions.scheduled])
        messages = [
            PendingMessage(row.id, row.name, row.queue, row.timeout_seconds, start_at)
            for row, start_at in decisions.scheduled
        ]
        publish_on_commit(session, messages)
    _cancel(session, decisions.expired, now)
    limits.free_slots(session, decisions.unused_turns())


def _cancel(session: Session, rows: Sequence[Any], now: datetime) -> None:
    if not rows:
        return
    cancellations = [{"of": row.id, "now": now, "message": _expiry_message(row.expires_at)} for row in rows]
    session.connection().execute(_CANCEL, cancellations)
    finalized = [FinalizedJob(row.id, row.name, row.batch_id, row.has_successors) for row in rows]
    announce_finalized(session, finalized, JobState.CANCELLED)


def _expiry_message(expires_at: datetime) -> str:
    return f"not started before {expires_at:%Y-%m-%d %H:%M:%S} UTC"
