"""Errors of asking for a job. Errors of running one live with the engine."""

from __future__ import annotations

import redis

from flask_belfry.core.errors import AppError, ConflictError, InvalidInputError


class OutboxError(AppError):
    """Something is wrong with a job that was asked for."""

    status = 500


class UnknownJobError(OutboxError):
    """No job function is registered under this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no job is named {name!r}: `flask jobs names` lists those there are")


class JobArgumentError(InvalidInputError):
    """What a job is enqueued with is invalid: its arguments, or its key, time, subject or change."""


class DuplicateSpecError(OutboxError):
    """Two job functions claim one name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"two jobs are named {name!r}")


class JobStateError(ConflictError):
    """The job's state does not admit this transition."""


class JobTimeoutError(BaseException):
    """The attempt took longer than the job's timeout.

    Raised inside the job function, from outside; not an Exception, so that a job's own `except Exception`
    does not swallow it.
    """


class ForeignBrokerError(redis.RedisError):
    """Another deployment owns the Redis database: for this one it is unavailable."""
