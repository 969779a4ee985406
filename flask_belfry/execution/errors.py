"""Errors of running a job. Errors of asking for one live in `flask_belfry.outbox`."""

from __future__ import annotations


class EngineError(Exception):
    """Something went wrong in running jobs, not in a job's own code."""


class ClaimLostError(EngineError):
    """Another worker has claimed the job since: this one's transaction must not commit."""


class CommitInJobError(EngineError):
    """A job function committed: its changes and its completion belong to one commit, which the engine makes."""


class JobCancelledError(EngineError):
    """A person asked the running job to stop; raised where the job function calls `check_cancelled()`."""


class JobResultError(EngineError):
    """A job function returned something that is not small JSON."""


class UnansweredError(EngineError):
    """A chunk's function returned without an answer for this record."""


class PoisonPillError(EngineError):
    """The job's worker died under it too many times in a row."""
