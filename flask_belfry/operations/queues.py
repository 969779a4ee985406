"""Queues for operators: their lengths, what waits blocked, and their pauses. The commands use this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import redis
import sqlalchemy as sa
from rq import Queue

from flask_belfry.changes import Subject, for_school
from flask_belfry.changes.host import current_host
from flask_belfry.core.errors import ConflictError, NotFoundError
from flask_belfry.db import db
from flask_belfry.outbox import JobRecord, JobState, pauses, publisher
from flask_belfry.outbox.models import BlockedBy, JobLimit, JobPause, PauseKind
from flask_belfry.outbox.registry import QUEUES, definitions


@dataclass(frozen=True)
class QueueState:
    """A queue: how many ids wait in Redis (None when it is unavailable), how many jobs are blocked, and its pause."""

    name: str
    length: int | None
    blocked_by_limit: int
    blocked_by_pause: int
    pause: JobPause | None


def queues() -> list[QueueState]:
    """Return all queues."""
    query = (
        sa.select(JobRecord.queue, JobRecord.blocked_by, sa.func.count())
        .where(JobRecord.state == JobState.BLOCKED, JobRecord.blocked_by.in_([BlockedBy.LIMIT, BlockedBy.PAUSE]))
        .group_by(JobRecord.queue, JobRecord.blocked_by)
    )
    blocked = {(queue, reason): count for queue, reason, count in db.session.execute(query)}
    paused = {pause.name: pause for pause in active_pauses() if pause.kind is PauseKind.QUEUE}
    return [
        QueueState(
            name,
            length,
            blocked.get((name, BlockedBy.LIMIT), 0),
            blocked.get((name, BlockedBy.PAUSE), 0),
            paused.get(name),
        )
        for name, length in zip(QUEUES, _lengths(), strict=True)
    ]


def active_pauses() -> Sequence[JobPause]:
    """Return the pauses that have not ended."""
    return pauses.active_pauses(db.session())


def pause(
    kind: PauseKind,
    name: str,
    *,
    reason: str | None = None,
    ends_at: datetime | None = None,
    duration: timedelta | None = None,
) -> None:
    """Pause a queue, a job name or a limit key, see `outbox.pauses.pause`, and record the action. Commits."""
    pauses.pause(db.session(), kind, name, reason=reason, ends_at=ends_at, duration=duration)
    _record("queue.pause", kind, name)
    db.session.commit()


def resume(kind: PauseKind, name: str) -> None:
    """End a pause and record the action. Commits. Raises NotFoundError."""
    if not pauses.resume(db.session(), kind, name):
        raise NotFoundError(f"No {kind.value} named {name!r} is paused.")
    _record("queue.resume", kind, name)
    db.session.commit()


def kind_of(name: str) -> PauseKind:
    """Return what `name` names: a queue, a registered job or a limit key in use.

    Raises:
        NotFoundError: nothing has this name.
        ConflictError: more than one has.
    """
    kinds = [PauseKind.QUEUE] if name in QUEUES else []
    kinds += [PauseKind.JOB] if name in {found.name for found in definitions()} else []
    has_key = sa.or_(sa.exists().where(JobLimit.key == name), sa.exists().where(JobRecord.limit_key == name))
    kinds += [PauseKind.LIMIT] if db.session.scalar(sa.select(has_key)) else []
    return _only(name, kinds, f"No queue, job or limit key is named {name!r}.")


def kind_of_pause(name: str) -> PauseKind:
    """Return what is paused under `name`. Raises as `kind_of` does."""
    kinds = [pause.kind for pause in active_pauses() if pause.name == name]
    return _only(name, kinds, f"No queue, job or limit key named {name!r} is paused.")


def _only(name: str, kinds: Sequence[PauseKind], otherwise: str) -> PauseKind:
    if not kinds:
        raise NotFoundError(otherwise)
    if len(kinds) > 1:
        raise ConflictError(f"{name!r} is ambiguous: it names a {' and a '.join(kinds)}. Give its kind.")
    return kinds[0]


def _lengths() -> list[int | None]:
    broker = publisher().connection
    try:
        with broker.pipeline(transaction=False) as pipeline:
            for queue in QUEUES:
                pipeline.llen(Queue.redis_queue_namespace_prefix + queue)
            return pipeline.execute()
    except redis.RedisError:
        return [None] * len(QUEUES)


def _record(action: str, kind: PauseKind, name: str) -> None:
    # The audit log keeps 40 characters of an id; a limit key may be longer.
    with for_school(None):
        current_host().record_action(action, {Subject(kind.value, name[:40]): None})
