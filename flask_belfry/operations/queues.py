"""Queues for operators: what waits and runs in them, and the pauses. The commands, the page and the API use this."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from flask_belfry.changes import Subject, for_school
from flask_belfry.changes.actor import SUBJECT_ID_CHARACTERS
from flask_belfry.changes.host import current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.tenancy import current_scope
from flask_belfry.outbox import LIVE, JobRecord, JobState, pauses
from flask_belfry.outbox.models import JobLimit, JobPause, PauseKind
from flask_belfry.outbox.registry import QUEUES
from flask_belfry.statistics import QueueSample, reading
from flask_belfry.statistics.times import minute_of

# The subjects of audit events. (The subject "job" is a job record.)
SUBJECT_TYPES = {PauseKind.QUEUE: "queue", PauseKind.JOB: "job_name", PauseKind.LIMIT: "limit_key"}
_COUNTED_AS = {
    JobState.PENDING: "waiting",
    JobState.QUEUED: "waiting",
    JobState.RUNNING: "running",
    JobState.SCHEDULED: "scheduled",
    JobState.RETRYABLE: "scheduled",
}
_SAMPLED = {state for state, name in _COUNTED_AS.items() if name != "running"}
# A sample is older only if no scheduler takes any.
SAMPLED_WITHIN = timedelta(minutes=2)
# Where nothing is sampled, counts stop here: for each state, of all queues together.
MAX_COUNTED = 2_000
# The time whose ended jobs make the rate of a queue.
RATE_TIME = timedelta(minutes=5)


@dataclass(frozen=True)
class QueueState:
    """A queue: its pause, and the number of its live jobs.

    `waiting` jobs can be started now, the oldest of them since `oldest_at`; `scheduled` ones are due later. Both are
    those of the time `sampled_at`, unless it is None. `per_minute` jobs have ended in the last minutes.
    """

    name: str
    pause: JobPause | None
    oldest_at: datetime | None
    sampled_at: datetime | None = None
    per_minute: float = 0.0
    waiting: int = 0
    running: int = 0
    scheduled: int = 0
    blocked_by_predecessor: int = 0
    blocked_by_limit: int = 0
    blocked_by_pause: int = 0

    @property
    def drain_seconds(self) -> float | None:
        """In how many seconds the waiting jobs will have ended at this rate; None if no job has ended."""
        return 60 * self.waiting / self.per_minute if self.per_minute else None


def queues(active: Sequence[JobPause], per_minute: Mapping[str, float] | None = None) -> list[QueueState]:
    """Return all queues with the jobs of the current scope.

    In the scope of all schools, what waits and is scheduled is read from the latest samples: counting it takes long
    when much waits.

    Args:
        active: the pauses that have not ended.
        per_minute: the rate of each queue; None for that of the last RATE_TIME.
    """
    paused = {pause.name: pause for pause in active if pause.kind is PauseKind.QUEUE}
    counts: dict[str, Counter[str]] = {name: Counter() for name in QUEUES}
    oldest: dict[str, datetime] = {}
    samples = _fresh_samples()
    for row in _counted(LIVE - _SAMPLED if samples else LIVE):
        if row.queue not in counts:
            continue  # a queue that the running code does not know
        name = f"blocked_by_{row.blocked_by.value}" if row.blocked_by else _COUNTED_AS[row.state]
        counts[row.queue][name] += row.jobs
        if name == "waiting":
            oldest[row.queue] = min(row.since, oldest.get(row.queue, row.since))
    for name, sample in samples.items():
        counts[name].update({"waiting": sample.waiting, "scheduled": sample.scheduled})
        if sample.oldest_at:
            oldest[name] = sample.oldest_at
    rates = _rates() if per_minute is None else per_minute
    return [
        QueueState(
            name,
            paused.get(name),
            oldest.get(name),
            samples[name].at if name in samples else None,
            rates.get(name, 0.0),
            **counts[name],
        )
        for name in QUEUES
    ]


def _fresh_samples() -> dict[str, QueueSample]:
    if not current_scope().sees_all:
        return {}  # samples are those of all schools together
    found = reading.latest_samples(SAMPLED_WITHIN)
    return {name: found[name] for name in QUEUES if name in found}


def _counted(states: Collection[JobState]) -> Sequence[Any]:
    """Count the oldest jobs of each state by queue, and what blocks them: in one statement, a range of an index for
    each state."""
    # Not since `enqueued_at`, which is set again whenever the relay has looked for the job's id in Redis.
    since = sa.func.coalesce(JobRecord.scheduled_at, JobRecord.started_at, JobRecord.created_at).label("since")
    jobs = sa.select(JobRecord.state, JobRecord.queue, JobRecord.blocked_by, since)
    jobs = jobs.order_by(JobRecord.id).limit(MAX_COUNTED)
    oldest = (jobs.where(JobRecord.state == state).subquery() for state in sorted(states))
    found = sa.union_all(*(sa.select(each) for each in oldest)).subquery().c
    columns = found.state, found.queue, found.blocked_by
    query = sa.select(*columns, sa.func.count().label("jobs"), sa.func.min(found.since).label("since"))
    return db.session.execute(query.group_by(*columns)).all()


def _rates() -> dict[str, float]:
    # From the beginning of a minute: what ended is counted by minutes.
    now = utc_now()
    since = minute_of(now - RATE_TIME)
    minutes = (now - since) / timedelta(minutes=1)
    return {name: ended / minutes for name, ended in reading.ended_by_queue(since, now).items()}


def active_pauses() -> Sequence[JobPause]:
    """Return the pauses that have not ended and that the current scope may see.

    Limit keys may name rows of a school: in its scope, a pause of one is visible if a job of the school has the key.
    """
    found = pauses.active_pauses(db.session())
    keys = [pause.name for pause in found if pause.kind is PauseKind.LIMIT]
    if current_scope().sees_all or not keys:
        return found
    query = sa.select(JobRecord.limit_key).where(JobRecord.limit_key.in_(keys)).distinct()
    visible = set(db.session.execute(query).scalars())
    return [pause for pause in found if pause.kind is not PauseKind.LIMIT or pause.name in visible]


def pauses_of(record: JobRecord) -> list[JobPause]:
    """Return the pauses that stop a job."""
    names = {PauseKind.QUEUE: record.queue, PauseKind.JOB: record.name, PauseKind.LIMIT: record.limit_key}
    return [pause for pause in active_pauses() if names[pause.kind] == pause.name]


def pause(
    kind: PauseKind,
    name: str,
    *,
    reason: str | None = None,
    ends_at: datetime | None = None,
    duration: timedelta | None = None,
) -> JobPause:
    """Pause a queue, a job name or a limit key, see `outbox.pauses.pause`, and record the action. Commits."""
    pauses.pause(db.session(), kind, name, reason=reason, ends_at=ends_at, duration=duration)
    _record("queue.pause", kind, name)
    db.session.commit()
    return db.session.get_one(JobPause, (kind, name), populate_existing=True)


def resume(kind: PauseKind, name: str) -> None:
    """End a pause and record the action. Commits. Raises NotFoundError."""
    if not pauses.resume(db.session(), kind, name):
        raise NotFoundError(f"No {kind.value} named {name!r} is paused.")
    _record("queue.resume", kind, name)
    db.session.commit()


def kind_of(name: str) -> PauseKind:
    """Return what `name` names: a queue, a job or a limit key in use.

    Raises:
        NotFoundError: nothing has this name.
        ConflictError: more than one has.
    """
    kinds = [PauseKind.QUEUE] if name in QUEUES else []
    kinds += [PauseKind.JOB] if pauses.is_job_name(db.session(), name) else []
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


def _record(action: str, kind: PauseKind, name: str) -> None:
    # A limit key may be longer than the id of a subject: then the details have all of it.
    is_long = len(name) > SUBJECT_ID_CHARACTERS
    subject = Subject(SUBJECT_TYPES[kind], f"{name[: SUBJECT_ID_CHARACTERS - 1]}…" if is_long else name)
    with for_school(None):
        current_host().record_action(action, {subject: None}, {"name": name} if is_long else None)
