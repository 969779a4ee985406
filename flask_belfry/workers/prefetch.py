"""How much a worker takes at once: little of what is slow, so that others get some; much of what is fast."""

from __future__ import annotations

import math

# What a worker holds should keep its threads busy so long: enough to fetch more meanwhile, and little to lose.
HOLD_SECONDS = 0.5
# What a thread takes for one call of a chunk function should keep it waiting so long: each call has a cost of its own.
UNIT_SECONDS = 0.25
# While nothing is known. Were it one for each thread, their contention would be taken for a slow server.
FIRST_UNIT = 10


class Prefetch:
    """The mean time that something takes, in seconds, as it was lately; None while nothing is known."""

    SMOOTHING = 0.2

    def __init__(self) -> None:
        self.mean_seconds: float | None = None

    def learn(self, count: int, seconds: float) -> None:
        """Takes note that `count` in a row took `seconds`."""
        mean = seconds / count
        known = mean if self.mean_seconds is None else self.mean_seconds
        self.mean_seconds = known + self.SMOOTHING * (mean - known)


def holding(job: Prefetch, threads: int, limit: int) -> int:
    """How many jobs a worker may hold: one for each thread, and more when they are short (Little's law).

    Args:
        job: how long one takes on its thread.
        threads: how many the worker has (WORKER_THREADS).
        limit: the most jobs (WORKER_BATCH), which a worker with more threads exceeds.
    """
    if job.mean_seconds is None:
        return threads
    return max(threads, min(limit, _fitting(HOLD_SECONDS * threads, job.mean_seconds)))


def unit(wait: Prefetch, limit: int) -> int:
    """How many jobs a thread takes for one call of a chunk function: few of what waits for long, for others to share.

    Args:
        wait: how long the process waits for one of them and computes nothing. What a job waits for the others of its
            process does not count: sharing them among more threads would make none of them faster.
        limit: the most jobs of one chunk.
    """
    size = FIRST_UNIT if wait.mean_seconds is None else _fitting(UNIT_SECONDS, wait.mean_seconds)
    return max(1, min(limit, size))


def _fitting(seconds: float, mean_seconds: float) -> int:
    return math.floor(seconds / max(mean_seconds, 1e-6))
