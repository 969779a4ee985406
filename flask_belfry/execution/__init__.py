"""Execution: the API of job functions (`job`, `Chunk`, `RetryPolicy`), and the executor that runs them."""

from flask_belfry.execution.chunk import Answer, Chunk
from flask_belfry.execution.context import check_cancelled, current_job
from flask_belfry.execution.errors import JobCancelledError, Snooze
from flask_belfry.execution.limits import take_start_times
from flask_belfry.outbox import NO_RETRY, JobTimeoutError, RetryPolicy, batch, job
from flask_belfry.outbox.limit import Limit
from flask_belfry.outbox.retry_policy import retry_after_seconds

__all__ = [
    "NO_RETRY",
    "Answer",
    "Chunk",
    "JobCancelledError",
    "JobTimeoutError",
    "Limit",
    "RetryPolicy",
    "Snooze",
    "batch",
    "check_cancelled",
    "current_job",
    "job",
    "retry_after_seconds",
    "take_start_times",
]
