"""Errors of executing jobs; `flask_belfry.outbox` has those of enqueueing them."""

from __future__ import annotations

from datetime import timedelta

MAX_SNOOZE = timedelta(days=30)


class EngineError(Exception):
    """The base of the engine's errors."""


class ClaimLostError(EngineError):
    """Another worker has claimed the job since; this transaction must not commit."""


class CommitInJobError(EngineError):
    """A job function committed; the engine commits its changes together with its completion."""


class JobCancelledError(EngineError):
    """A user cancelled the running job; raised where the job function calls `check_cancelled()`."""


class JobProgressError(EngineError):
    """A job reported invalid progress, or a process that is not the job reported it."""


class JobStepsError(EngineError):
    """Steps that a job cannot have: an invalid query or key, a name that is used twice, or a loop within a page."""


class JobStoppedError(BaseException):
    """The process of the job is about to end; raised between two pages of steps. The job continues elsewhere.

    It is not an Exception, so that an `except Exception` in the job does not catch it.
    """


class JobResultError(EngineError):
    """A job function returned a value that is not small JSON."""


class UnansweredError(EngineError):
    """A chunk function returned without an answer for this record."""


class PoisonPillError(EngineError):
    """The job's worker crashed too many times in a row while running it."""


class Snooze(EngineError):
    """Raised by a job that cannot run yet: it is scheduled again, without using an attempt.

    Args:
        seconds: how long it waits, more than 0 and at most 30 days.
        reason: shown with the attempt.
    """

    def __init__(self, seconds: float, reason: str = "") -> None:
        most = MAX_SNOOZE.total_seconds()
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= most:
            raise ValueError(f"seconds must be a number above 0 and at most {most:.0f} (30 days), not {seconds!r}")
        if not isinstance(reason, str):
            raise TypeError(f"reason must be text, not {type(reason).__name__}")
        super().__init__(reason)
        self.seconds = seconds


class SnoozeLimitError(EngineError):
    """The job snoozed MAX_SNOOZES times."""


class JobExpiredError(EngineError):
    """No worker started the job before the time at which it expires; never raised, only recorded."""
