"""How many jobs a worker takes at once: few when they are long, so that others get some; many when they are short."""

from __future__ import annotations

import math


class BatchSize:
    """Follows the mean time that a job takes.

    Args:
        limit: the most jobs at once (WORKER_BATCH).
        threads: how many threads the worker has (WORKER_THREADS); each idle one stands for its share of `limit`.
        target_seconds: what a worker may hold back from the others, in seconds of work for each thread.
    """

    SMOOTHING = 0.2

    def __init__(self, limit: int, threads: int, target_seconds: float = 0.1) -> None:
        self._limit = limit
        self._share = math.ceil(limit / threads)
        self._target_seconds = target_seconds
        self._mean_seconds: float | None = None

    def next(self, idle_threads: int) -> int:
        """How many to take for so many idle threads: at least one for each, at most the limit."""
        if self._mean_seconds is None:
            return min(idle_threads, self._limit)
        per_thread = max(1, min(math.floor(self._target_seconds / max(self._mean_seconds, 1e-6)), self._share))
        return max(1, min(idle_threads * per_thread, self._limit))

    def learn(self, jobs: int, seconds: float) -> None:
        """Takes note that one thread needed so long for so many jobs."""
        mean = seconds / jobs
        known = mean if self._mean_seconds is None else self._mean_seconds
        self._mean_seconds = known + self.SMOOTHING * (mean - known)
