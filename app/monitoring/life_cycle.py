"""The life cycle of one job as its page shows it: what happened, in the order it happened, and what is still to come."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.outbox import WAITING, JobRecord, JobState


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
    known = sorted((at, label) for label, at in _past(record) if at is not None)
    steps: list[Step] = []
    previous: datetime | None = None
    for at, label in [*known, *_planned(record)]:
        steps.append(Step(label, at, previous, is_done=at <= now))
        previous = at
    return [*steps, *(Step(label, None) for label in _to_come(record))]


def _past(record: JobRecord) -> list[tuple[str, datetime | None]]:
    return [
        ("created", record.created_at),
        ("queued", record.enqueued_at),
        ("started", record.started_at),
        (record.state.value, record.finished_at),
    ]


def _planned(record: JobRecord) -> list[tuple[datetime, str]]:
    """`scheduled_at` keeps its value when its job starts or is cancelled: it then plans nothing any more."""
    if record.scheduled_at is None:
        return []
    if record.state is JobState.RETRYABLE:
        return [(record.scheduled_at, "next attempt")]
    return [(record.scheduled_at, "due")] if record.state is JobState.SCHEDULED else []


def _to_come(record: JobRecord) -> list[str]:
    if record.finished_at is not None or record.state is JobState.RETRYABLE:
        return []
    queued = ["queued"] if record.enqueued_at is None and record.started_at is None else []
    started = ["started"] if record.state in WAITING and record.started_at is None else []
    return [*queued, *started, "finished"]
