"""The life cycle of a job record: its states and the transitions between them, defined here only."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """The state of a job."""

    BLOCKED = "blocked"  # waits in SQL for another job, a free slot of its limit, or the end of a pause
    PENDING = "pending"  # committed; not yet known to be at RQ
    SCHEDULED = "scheduled"  # due later; a job may also have snoozed
    QUEUED = "queued"  # known to be at RQ
    RUNNING = "running"  # claimed by a worker
    RETRYABLE = "retryable"  # failed, or interrupted by repeated outages of the database; waits for its next attempt
    COMPLETED = "completed"
    FAILED = "failed"  # all attempts failed, or the error is not retried
    CANCELLED = "cancelled"  # by a user


# Where a job goes that a worker may not run yet: a pause, a limit, or the start time that its rate gives it.
_HELD_BACK = frozenset({JobState.BLOCKED, JobState.SCHEDULED})

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.BLOCKED: frozenset({JobState.PENDING, JobState.RUNNING, JobState.CANCELLED}),
    JobState.PENDING: frozenset({JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED}) | _HELD_BACK,
    JobState.SCHEDULED: frozenset({JobState.PENDING, JobState.RUNNING, JobState.CANCELLED, JobState.BLOCKED}),
    JobState.QUEUED: frozenset({JobState.PENDING, JobState.RUNNING, JobState.CANCELLED}) | _HELD_BACK,
    JobState.RUNNING: frozenset(
        {
            JobState.COMPLETED,
            JobState.FAILED,
            JobState.RETRYABLE,
            JobState.PENDING,
            JobState.CANCELLED,
            JobState.SCHEDULED,
        }
    ),
    JobState.RETRYABLE: frozenset({JobState.PENDING, JobState.RUNNING, JobState.CANCELLED}) | _HELD_BACK,
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset({JobState.PENDING}),
    JobState.CANCELLED: frozenset({JobState.PENDING}),
}

# What a worker may claim whose id it has popped. (A blocked job is in no queue.)
CLAIMABLE = frozenset({JobState.PENDING, JobState.SCHEDULED, JobState.QUEUED, JobState.RETRYABLE})
WAITING = CLAIMABLE | {JobState.BLOCKED}
TIMED = frozenset({JobState.SCHEDULED, JobState.RETRYABLE})
FINALIZED = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})
LIVE = frozenset(JobState) - FINALIZED


def sources_of(target: JobState) -> frozenset[JobState]:
    """Return the states from which `target` may be entered: each UPDATE that sets a state has them in its WHERE."""
    return frozenset(state for state, targets in TRANSITIONS.items() if target in targets)
