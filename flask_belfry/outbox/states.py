"""The life cycle of a job record: its states and the transitions between them. Nothing else decides them."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands."""

    PENDING = "pending"  # committed; its arrival at RQ is not yet on record
    SCHEDULED = "scheduled"  # due later
    QUEUED = "queued"  # known to be at RQ
    RUNNING = "running"  # claimed by a worker
    RETRYABLE = "retryable"  # failed or met by an outage of the database again, waits for its next attempt
    COMPLETED = "completed"
    FAILED = "failed"  # attempts exhausted, or given up on
    CANCELLED = "cancelled"  # stopped by a person


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.PENDING: frozenset({JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED}),
    JobState.SCHEDULED: frozenset({JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {
            JobState.COMPLETED,
            JobState.FAILED,
            JobState.RETRYABLE,
            JobState.PENDING,
            JobState.CANCELLED,
        }
    ),
    JobState.RETRYABLE: frozenset({JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED}),
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset({JobState.PENDING}),
    JobState.CANCELLED: frozenset({JobState.PENDING}),
}

WAITING = frozenset({JobState.PENDING, JobState.SCHEDULED, JobState.QUEUED, JobState.RETRYABLE})
TIMED = frozenset({JobState.SCHEDULED, JobState.RETRYABLE})
FINALIZED = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})
LIVE = frozenset(JobState) - FINALIZED


def sources_of(target: JobState) -> frozenset[JobState]:
    """The states from which `target` may be entered: the WHERE of every UPDATE that sets a state."""
    return frozenset(state for state, targets in TRANSITIONS.items() if target in targets)
