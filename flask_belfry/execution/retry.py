"""Retry policies: pure values that say whether and when a failed attempt is followed by another."""

from __future__ import annotations

import random
from dataclasses import dataclass

from flask_belfry.execution.errors import JobCancelledError, PoisonPillError


@dataclass(frozen=True)
class RetryPolicy:
    """What follows a failed attempt.

    Args:
        delays_seconds: the wait before each retry; its length is the number of retries.
        jitter: the share of a delay that is drawn at random and added to it, 0 to 1; spreads a herd.
        retry_on: errors that may pass by themselves; others fail the job at once.
        give_up_on: exceptions to `retry_on`, for subclasses that will not pass.
    """

    delays_seconds: tuple[float, ...] = ()
    jitter: float = 0.0
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    give_up_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if any(delay < 0 for delay in self.delays_seconds):
            raise ValueError(f"delays_seconds takes seconds of 0 or more, not {self.delays_seconds}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter takes a share between 0 and 1, not {self.jitter}")

    @property
    def max_attempts(self) -> int:
        """How often a job may run, the first time included."""
        return len(self.delays_seconds) + 1

    def delay_after(self, attempt: int, error: BaseException) -> float | None:
        """The seconds to wait before the next attempt.

        Args:
            attempt: the number of the attempt that failed, from 1.
            error: what it failed with.

        Returns:
            seconds, or None when there is no next attempt.
        """
        if attempt > len(self.delays_seconds) or not self._may_pass(error):
            return None
        delay = self.delays_seconds[attempt - 1]
        return delay * (1 + self.jitter * random.random())  # noqa: S311 - spreads load, keeps no secret

    def _may_pass(self, error: BaseException) -> bool:
        if isinstance(error, (*self.give_up_on, JobCancelledError, PoisonPillError)):
            return False
        # A timeout is no Exception (see there), but may pass like one.
        return isinstance(error, self.retry_on) or (not isinstance(error, Exception) and Exception in self.retry_on)


NO_RETRY = RetryPolicy()
