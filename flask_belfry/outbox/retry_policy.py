"""Retry policies: pure values that decide whether and when a failed attempt is followed by another one."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """What follows a failed attempt.

    Args:
        delays_seconds: the wait before each retry; its length is the number of retries.
        jitter: the share of a delay, 0 to 1, of which a random part is added to it, so that retries spread out.
        retry_on: errors after which a retry may succeed; others fail the job immediately.
        give_up_on: exceptions to `retry_on`, for subclasses after which no retry can succeed.
    """

    delays_seconds: tuple[float, ...] = ()
    jitter: float = 0.0
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    give_up_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if any(delay < 0 for delay in self.delays_seconds):
            raise ValueError(f"delays_seconds must be seconds of 0 or more, not {self.delays_seconds}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be a share between 0 and 1, not {self.jitter}")

    @property
    def max_attempts(self) -> int:
        """How often a job may run, the first time included."""
        return len(self.delays_seconds) + 1

    def delay_after(self, attempt: int, error: BaseException) -> float | None:
        """Return the seconds to wait before the next attempt; None when there is no next attempt.

        Args:
            attempt: the number of the failed attempt, from 1.
            error: the exception that it raised.
        """
        if attempt > len(self.delays_seconds) or not self._is_retried(error):
            return None
        delay = self.delays_seconds[attempt - 1]
        return delay * (1 + self.jitter * random.random())  # noqa: S311 - spreads load, keeps no secret

    def _is_retried(self, error: BaseException) -> bool:
        if isinstance(error, self.give_up_on):
            return False
        # JobTimeoutError is not an Exception, but is retried like one.
        return isinstance(error, self.retry_on) or (not isinstance(error, Exception) and Exception in self.retry_on)


NO_RETRY = RetryPolicy()
