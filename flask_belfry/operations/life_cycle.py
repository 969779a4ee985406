"""The life cycle of one job as its page shows it: what happened, in its order, and what is still to come."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from flask_belfry.outbox import JobRecord, JobState
from flask_belfry.outbox.states import WAITING


@dataclass(frozen=True)
class Step:
    """One step: `at` is None while it is to come, `previous` is the time of the step before it."""

    label: str
    at: datetime | None
    previous: datetime | None = None
    is_done: bool = False


def life_cycle(record: JobRecord, now: datetime) -> list[Step]:
    """The steps of a job.

    Those that have a time stand in its order: a job that is queued for another attempt was started before. What has no
    time stands only where it may still come.
    """
    steps: list[Step] = []
    previous: datetime | None = None
    for label, at in [*_dated(record), *_next_attempt(record)]:
        steps.append(Step(label, at, previous, is_done=at <= now))
        previous = at
    return [*steps, *(Step(label, None) for label in _to_come(record))]


def _dated(record: JobRecord) -> list[tuple[str, datetime]]:
    # `scheduled_at` keeps its value when the job starts or is cancelled: it then plans nothing any more.
    is_due_later = record.started_at is None and record.state in WAITING
    steps = (
        ("created", record.created_at),
        ("due", record.scheduled_at if is_due_later else None),
        ("queued", record.enqueued_at),
        ("started", record.started_at),
        (record.state.value, record.finished_at),
    )
    return sorted(((label, at) for label, at in steps if at is not None), key=lambda step: step[1])


def _next_attempt(record: JobRecord) -> list[tuple[str, datetime]]:
    if record.state is not JobState.RETRYABLE or record.scheduled_at is None:
        return []
    return [("next attempt", record.scheduled_at)]


def _to_come(record: JobRecord) -> list[str]:
    if record.finished_at is not None or record.state is JobState.RETRYABLE:
        return []
    if record.started_at is not None:
        return ["finished"]
    return ["started", "finished"] if record.enqueued_at is not None else ["queued", "started", "finished"]
