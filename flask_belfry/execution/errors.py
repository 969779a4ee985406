"""Errors of executing jobs; `flask_belfry.outbox` has those of enqueueing them."""

from __future__ import annotations


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


class JobResultError(EngineError):
    """A job function returned a value that is not small JSON."""


class UnansweredError(EngineError):
    """A chunk function returned without an answer for this record."""


class PoisonPillError(EngineError):
    """The job's worker crashed too many times in a row while running it."""


class JobExpiredError(EngineError):
    """No worker started the job before the time at which it expires; never raised, only recorded."""
