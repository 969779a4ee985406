"""The timeline of a job: what has happened to it and when, and what may follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from flask_belfry.operations.services import Attempt
from flask_belfry.outbox import JobRecord, JobState, UnknownJobError
from flask_belfry.outbox.models import AttemptOutcome
from flask_belfry.outbox.registry import definition
from flask_belfry.outbox.states import WAITING

# Of a longer timeline, the first and the last steps are shown.
FIRST_STEPS, LAST_STEPS = 4, 16
# What ended with the job is one step with its end.
_SAME_MOMENT = timedelta(seconds=2)
_ENDS = (JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Step:
    """A step of a job's life cycle.

    Args:
        label: what happened.
        at: None for a future step.
        previous: the time of the step before it.
        is_done: whether it has happened.
        note: details, such as an error.
        left_out: how many steps before it are not shown.
    """

    label: str
    at: datetime | None
    previous: datetime | None = None
    is_done: bool = False
    note: str = ""
    left_out: int = 0


@dataclass(frozen=True)
class NextAttempt:
    """An attempt that follows if the one before it fails: its number, and the seconds between both."""

    number: int
    seconds: float


def life_cycle(record: JobRecord, now: datetime, attempts: Sequence[Attempt] = ()) -> list[Step]:
    """Return the steps of a job: those with a time in chronological order, then those that may still follow.

    The order is not fixed: a job that is queued for another attempt was started before.

    Args:
        record: the job.
        now: the current time.
        attempts: its attempts that did not complete it, newest first.
    """
    steps: list[Step] = []
    previous: datetime | None = None
    for label, at, note in [*_past_steps(record, attempts), *_next_attempt(record)]:
        steps.append(Step(label, at, previous, is_done=at <= now, note=note))
        previous = at
    left_out = len(steps) - FIRST_STEPS - LAST_STEPS
    if left_out > 1:
        after = steps[-LAST_STEPS]
        resumed = Step(after.label, after.at, after.previous, after.is_done, after.note, left_out)
        steps = [*steps[:FIRST_STEPS], resumed, *steps[1 - LAST_STEPS :]]
    return [*steps, *(Step(label, None) for label in _future_steps(record))]


def next_attempts(record: JobRecord) -> list[NextAttempt]:
    """Return the attempts that follow, by the retry policy of the job, if each one before fails with an error that is
    retried; none for a job that has ended."""
    try:
        delays = definition(record.name).policy().delays_seconds
    except UnknownJobError:
        return []
    if record.finished_at is not None:
        return []
    # The attempt that runs, or the one that comes first.
    number = record.attempt if record.state is JobState.RUNNING else record.attempt + 1
    following = enumerate(delays[number - 1 :], start=number + 1)
    return [NextAttempt(each, seconds) for each, seconds in following if each <= record.max_attempts]


def _past_steps(record: JobRecord, attempts: Sequence[Attempt]) -> list[tuple[str, datetime, str]]:
    # `scheduled_at` keeps its value after the job starts or is cancelled, and then has no meaning.
    is_due_later = record.started_at is None and record.state in WAITING
    recorded = [each for each in reversed(attempts) if each.outcome in list(AttemptOutcome)]
    starts = {each.started_at for each in recorded}
    steps: list[tuple[str, datetime | None, str]] = [
        ("created", record.created_at, ""),
        ("due", record.scheduled_at if is_due_later else None, ""),
        ("queued", record.enqueued_at, ""),
    ]
    for each in recorded:
        steps.append(("started", each.started_at, each.worker or ""))
        if not _ends_with(record, each):
            steps.append((each.outcome.replace("_", " "), each.finished_at, _reason(each)))
    if record.started_at not in starts:
        steps.append(("started", record.started_at, record.worker or ""))
    steps.append((record.state.value, record.finished_at, record.error_type or ""))
    return sorted([(label, at, note) for label, at, note in steps if at is not None], key=lambda step: step[1])


def _ends_with(record: JobRecord, attempt: Attempt) -> bool:
    """Return whether an attempt ended with the job."""
    if record.state not in _ENDS or record.finished_at is None or attempt.finished_at is None:
        return False
    is_snooze = attempt.outcome == AttemptOutcome.SNOOZED
    return not is_snooze and abs(attempt.finished_at - record.finished_at) < _SAME_MOMENT


def _reason(attempt: Attempt) -> str:
    if attempt.outcome in (AttemptOutcome.SNOOZED, AttemptOutcome.INTERRUPTED):
        return attempt.error_message or ""
    return attempt.error_type or ""


def _next_attempt(record: JobRecord) -> list[tuple[str, datetime, str]]:
    if not _waits_again(record) or record.scheduled_at is None:
        return []
    return [("next attempt", record.scheduled_at, "")]


def _waits_again(record: JobRecord) -> bool:
    """Whether it waits for the time of its next attempt, also after a snooze."""
    return record.state is JobState.RETRYABLE or (record.state is JobState.SCHEDULED and record.started_at is not None)


def _future_steps(record: JobRecord) -> list[str]:
    if record.finished_at is not None or _waits_again(record):
        return []
    if record.started_at is not None:
        return ["finished"]
    return ["started", "finished"] if record.enqueued_at is not None else ["queued", "started", "finished"]
