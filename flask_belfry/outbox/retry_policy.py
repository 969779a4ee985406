"""Retry policies: pure values that decide whether and when a failed attempt is followed by another one."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import structlog

log = structlog.get_logger(__name__)

# What an error asks for is cut at this.
MAX_DELAY_SECONDS = 30 * 24 * 3600.0
# What a server asks for is cut at this: a wrong header must not stop what waits for days.
MAX_RETRY_AFTER_SECONDS = 3600.0


@dataclass(frozen=True)
class RetryPolicy:
    """What follows a failed attempt.

    Args:
        delays_seconds: the wait before each retry; its length is the number of retries.
        jitter: the share of a delay, 0 to 1, of which a random part is added to it, so that retries spread out.
        retry_on: errors after which a retry may succeed; others fail the job immediately.
        give_up_on: exceptions to `retry_on`, for subclasses after which no retry can succeed.
        delay_from: a function of the error that returns how many seconds it asks to wait, such as a server's
            `Retry-After`, instead of the usual delay; None for the usual delay. At most 30 days.
    """

    delays_seconds: tuple[float, ...] = ()
    jitter: float = 0.0
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    give_up_on: tuple[type[BaseException], ...] = ()
    delay_from: Callable[[BaseException], float | None] | None = None

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
        asked = self._asked_delay(error)
        delay = self.delays_seconds[attempt - 1] if asked is None else asked
        delay *= 1 + self.jitter * random.random()  # noqa: S311 - spreads load, keeps no secret
        return delay if asked is None else min(delay, MAX_DELAY_SECONDS)

    def _asked_delay(self, error: BaseException) -> float | None:
        """Return how long the error asks to wait, from 0 to MAX_DELAY_SECONDS; None when it does not."""
        if self.delay_from is None:
            return None
        try:  # the job must not fail in another way than it has
            asked = self.delay_from(error)
            seconds = math.nan if asked is None else float(asked)
        except Exception:
            log.exception("retry.delay_unknown")
            return None
        return None if math.isnan(seconds) else max(0.0, min(seconds, MAX_DELAY_SECONDS))

    def _is_retried(self, error: BaseException) -> bool:
        if isinstance(error, self.give_up_on):
            return False
        # JobTimeoutError is not an Exception, but is retried like one.
        return isinstance(error, self.retry_on) or (not isinstance(error, Exception) and Exception in self.retry_on)


NO_RETRY = RetryPolicy()


def retry_after_seconds(value: str | None, now: datetime, at_most: float = MAX_RETRY_AFTER_SECONDS) -> float | None:
    """Return the seconds that the value of a `Retry-After` header asks to wait, from 0 to `at_most`; None if invalid.

    Args:
        value: a number of seconds or an HTTP date.
        now: the current time.
        at_most: what a longer time is cut at, with a line in the log.
    """
    text = (value or "").strip()
    if (asked := _read_retry_after(text, now)) is None:
        return None
    if asked > at_most:
        log.warning("retry.retry_after_cut", retry_after=text[:100], seconds=at_most)
    return max(0.0, min(asked, at_most))


def _read_retry_after(text: str, now: datetime) -> float | None:
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # the oldest form of HTTP dates
    return (moment - now).total_seconds()
