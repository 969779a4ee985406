"""Errors of enqueuing a job. Errors of running one are in `flask_belfry.execution`."""

from __future__ import annotations

import redis

from flask_belfry.core.errors import AppError, ConflictError, InvalidInputError


class UnknownJobError(AppError):
    """No job function is registered under this name."""

    status = 500

    def __init__(self, name: str) -> None:
        super().__init__(f"no job is named {name!r}: `flask jobs names` lists all job names")


class JobArgumentError(InvalidInputError):
    """A job is enqueued with invalid arguments, or an invalid key, time, subject or change."""


class JobStateError(ConflictError):
    """The job's state does not allow this transition."""


class JobTimeoutError(BaseException):
    """The attempt took longer than the job's time limit.

    Raised within the job function by the worker. Not an Exception, so that `except Exception` in the function does not
    catch it.
    """


class ForeignBrokerError(redis.RedisError):
    """Another deployment owns the Redis database: for this one it is unavailable."""


class BatchStateError(ConflictError):
    """The batch is finished or cancelled, or another one is open."""
