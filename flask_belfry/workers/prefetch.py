"""How many jobs a worker has in flight, and how many records one thread gets: as much as keeps the threads busy."""

from __future__ import annotations

import math

# The jobs in flight should keep the threads busy for this long: enough to fetch more meanwhile, and little to lose.
PREFETCH_SECONDS = 0.5
# The jobs that replace ended ones of their limit should begin within this time, for an idle worker may begin them
# earlier, and must not keep the worker from fetching others for longer.
HAND_OVER_SECONDS = 0.05
# One call of a chunk function should wait for others for this long: each call has a cost of its own.
CHUNK_SECONDS = 0.25
# The first size of a chunk. With one for each thread, their contention would be mistaken for a slow server.
FIRST_CHUNK = 10


class MeanTime:
    """The moving mean of a duration; `seconds` is None until the first measurement."""

    SMOOTHING = 0.2

    def __init__(self) -> None:
        self.seconds: float | None = None

    def learn(self, count: int, seconds: float) -> None:
        """Add a measurement: `count` in a row took `seconds`."""
        mean = seconds / count
        known = mean if self.seconds is None else self.seconds
        self.seconds = known + self.SMOOTHING * (mean - known)


def prefetch_limit(mean_seconds: float | None, threads: int, batch: int, seconds: float = PREFETCH_SECONDS) -> int:
    """Return how many jobs a worker may have in flight: one for each thread, and more when they are short.

    Args:
        mean_seconds: how long one job takes on its thread (Little's law).
        threads: how many the worker has (WORKER_THREADS).
        batch: the most jobs (WORKER_BATCH), which a worker with more threads exceeds.
        seconds: how long they may keep the threads busy.
    """
    if mean_seconds is None:
        return threads
    return max(threads, min(batch, _fitting(seconds * threads, mean_seconds)))


def smallest_fetch(limit: int, threads: int, batch: int) -> int:
    """Return for how many free places more jobs are fetched: half of those that wait for a thread, when jobs are short.

    Each claim is a transaction, which takes longer than a short job. What is left keeps the threads busy meanwhile.

    Args:
        limit: how many jobs the worker may have in flight; as many as `batch` when they are short.
        threads: how many of these run.
        batch: the most jobs.
    """
    return max(1, (limit - threads) // 2) if limit == batch else 1


def chunk_size(mean_wait_seconds: float | None, limit: int, share: int = 1) -> int:
    """Return how many records one call of a chunk function gets: few of what waits for long, so that threads share it,
    but a whole share when there is enough for all threads.

    Args:
        mean_wait_seconds: how long the process waits for one record, computing nothing. Waiting for other jobs of the
            process does not count, nor does waiting for the database, whose statements are for the whole call: sharing
            the records among more threads would make none of that faster.
        limit: the `chunk` of the job function.
        share: how many records wait for each thread.
    """
    size = FIRST_CHUNK if mean_wait_seconds is None else _fitting(CHUNK_SECONDS, mean_wait_seconds)
    return max(1, min(limit, max(size, share)))


def _fitting(seconds: float, mean_seconds: float) -> int:
    return math.floor(seconds / max(mean_seconds, 1e-6))
