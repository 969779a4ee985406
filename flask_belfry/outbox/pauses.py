"""Pauses of queues, job names and limit keys: their jobs are not claimed until a pause ends or a user resumes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.changes.actor import current_actor
from flask_belfry.core.clock import utc_now
from flask_belfry.db import insert_ignoring_conflicts, table_of
from flask_belfry.db.columns import UtcDateTime, text_problem
from flask_belfry.outbox.errors import JobArgumentError
from flask_belfry.outbox.models import (
    LIMIT_KEY_CHARACTERS,
    REASON_CHARACTERS,
    BlockedBy,
    JobPause,
    JobRecord,
    PauseKind,
)
from flask_belfry.outbox.pending import PendingMessage, publish_on_commit
from flask_belfry.outbox.registry import QUEUES, definitions
from flask_belfry.outbox.requests import LATEST
from flask_belfry.outbox.states import JobState

# The most blocked jobs that one transaction releases. The scheduler releases the rest.
PAGE_RECORDS = 1_000
# A pause that has ended is kept for this long: a claim that still saw it may block jobs as long as its transaction
# takes, and the scheduler releases those too.
KEEP_ENDED = timedelta(seconds=10)
# The parameter of `is_paused`.
NOW = sa.bindparam("now", type_=UtcDateTime)
_PAUSES = table_of(JobPause)
_RECORDS = table_of(JobRecord)
_COLUMNS = {PauseKind.QUEUE: JobRecord.queue, PauseKind.JOB: JobRecord.name, PauseKind.LIMIT: JobRecord.limit_key}
_IS_OPEN = sa.or_(_PAUSES.c.ends_at.is_(None), _PAUSES.c.ends_at > NOW)


def is_paused(*kinds: PauseKind) -> sa.ColumnElement[bool]:
    """Return the condition for a job that a pause of one of these kinds stops, at the time of the parameter `now`."""
    names = {kind: sa.select(_PAUSES.c.name).where(_PAUSES.c.kind == kind, _IS_OPEN) for kind in kinds}
    # The subqueries do not depend on the job: a statement over many jobs runs each of them once.
    return sa.or_(*(sa.func.coalesce(_COLUMNS[kind], "").in_(found) for kind, found in names.items()))


_UNPAUSED = (
    sa.select(JobRecord.id, JobRecord.name, JobRecord.queue, JobRecord.timeout_seconds)
    .where(
        JobRecord.state == sa.literal_column("'blocked'"),
        JobRecord.blocked_by == BlockedBy.PAUSE,
        sa.not_(is_paused(*PauseKind)),
    )
    .order_by(JobRecord.id)
    .limit(PAGE_RECORDS)
    .with_for_update(skip_locked=True)
)


def pause(
    session: Session,
    kind: PauseKind,
    name: str,
    *,
    reason: str | None = None,
    ends_at: datetime | None = None,
    duration: timedelta | None = None,
) -> None:
    """Pause a queue, a job name or a limit key, or change its pause. The caller commits. Running jobs continue.

    Args:
        session: whose transaction.
        kind: what `name` names.
        name: a queue, the name of a registered job or of a job record, or any limit key.
        reason: shown to users, at most 200 characters.
        ends_at: an aware datetime at which the pause ends by itself; None until it is resumed.
        duration: the time from now until it ends, instead of `ends_at`.

    Raises:
        JobArgumentError: the name, the reason or the end is invalid.
    """
    now = utc_now()
    problems = _problems_of_name(session, kind, name)
    try:
        ends_at = ends_at if duration is None else now + duration
    except OverflowError:
        ends_at = LATEST
    if ends_at is not None and (ends_at.utcoffset() is None or not now < ends_at < LATEST):
        problems["ends_at"] = [f"must be in the future, and before {LATEST:%Y-%m-%d}"]
    if reason is not None and (problem := text_problem(reason, REASON_CHARACTERS)):
        problems["reason"] = [problem]
    if problems:
        listed = "; ".join(f"{field}: {', '.join(messages)}" for field, messages in problems.items())
        raise JobArgumentError(f"cannot pause: {listed}", problems)
    key = {"kind": kind, "name": name}
    values = {"reason": reason, "user_id": current_actor().user_id, "paused_at": now, "ends_at": ends_at}
    insert_ignoring_conflicts(session, JobPause, [key | values], key="name")
    session.connection().execute(sa.update(_PAUSES).where(_is_of(kind, name)).values(values))


def resume(session: Session, kind: PauseKind, name: str) -> bool:
    """End a pause and release the jobs that it blocks, the oldest first. The caller commits.

    Returns:
        whether there was a pause.
    """
    now = utc_now()
    ended = sa.update(_PAUSES).where(_is_of(kind, name), _IS_OPEN).values(ends_at=now).returning(_PAUSES.c.name)
    if session.connection().execute(ended, {"now": now}).first() is None:
        return False
    release_unpaused(session)
    return True


def active_pauses(session: Session) -> Sequence[JobPause]:
    """Return the pauses that have not ended, by kind and name."""
    query = sa.select(JobPause).where(_IS_OPEN).order_by(JobPause.kind, JobPause.name)
    return session.scalars(query, {"now": utc_now()}, execution_options={"populate_existing": True}).all()


def paused_queues(session: Session) -> frozenset[str]:
    """Return the names of the paused queues."""
    query = sa.select(_PAUSES.c.name).where(_PAUSES.c.kind == PauseKind.QUEUE, _IS_OPEN)
    return frozenset(session.connection().execute(query, {"now": utc_now()}).scalars())


def release_unpaused(session: Session) -> int:
    """Release a page of the jobs whose pause has ended, the oldest first. The caller commits.

    Returns:
        how many were released; after PAGE_RECORDS there may be more.
    """
    rows = session.connection().execute(_UNPAUSED, {"now": utc_now()}).all()
    release_blocked(session, [PendingMessage(*row) for row in rows])
    return len(rows)


def release_blocked(session: Session, messages: Sequence[PendingMessage]) -> None:
    """Set blocked jobs, which the open transaction has locked, to pending, and publish them when it commits."""
    if not messages:
        return
    released = (
        sa.update(_RECORDS)
        .where(_RECORDS.c.id.in_([message.id for message in messages]), _RECORDS.c.state == JobState.BLOCKED)
        .values(state=JobState.PENDING, blocked_by=None, enqueued_at=utc_now())
    )
    session.connection().execute(released)
    publish_on_commit(session, messages)


def sweep_unpaused(session: Session) -> Iterator[int]:
    """Release the jobs that no pause stops any more, page by page. Commits.

    A claim that was frozen for longer than KEEP_ENDED blocks jobs of a pause that is deleted.
    """
    while (released := release_unpaused(session)) == PAGE_RECORDS:
        session.commit()
        yield released
    session.commit()


def sweep_pauses(session: Session) -> Iterator[int]:
    """Release the jobs of ended pauses page by page, and delete those pauses. Commits."""
    now = utc_now()
    ended = _PAUSES.c.ends_at <= now
    is_any = session.connection().execute(sa.select(_PAUSES.c.name).where(ended).limit(1)).first() is not None
    session.rollback()
    if is_any:
        yield from sweep_unpaused(session)
        session.connection().execute(sa.delete(_PAUSES).where(_PAUSES.c.ends_at <= now - KEEP_ENDED))
        session.commit()


def _is_of(kind: PauseKind, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(_PAUSES.c.kind == kind, _PAUSES.c.name == name)


def is_job_name(session: Session, name: str) -> bool:
    """Return whether a registered job has this name, or a record: only another version of the code may know its job."""
    if any(found.name == name for found in definitions()):
        return True
    return bool(session.scalar(sa.select(sa.exists().where(JobRecord.name == name))))


def _problems_of_name(session: Session, kind: PauseKind, name: str) -> dict[str, list[str]]:
    if kind is PauseKind.QUEUE:
        problem = None if name in QUEUES else f"must be one of {', '.join(QUEUES)}, not {name!r}"
    else:
        problem = text_problem(name, LIMIT_KEY_CHARACTERS)
    if kind is PauseKind.JOB and problem is None and not is_job_name(session, name):
        problem = f"must be a registered job, not {name!r}"
    return {"name": [problem]} if problem else {}
