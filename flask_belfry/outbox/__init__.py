"""The transactional outbox: a job exists if and only if the transaction that enqueued it committed.

This is its public API. What only the engine uses is imported from its modules.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from flask import Flask, current_app

from flask_belfry.db import BelfrySession
from flask_belfry.outbox import pending
from flask_belfry.outbox.backlog import KnownQueues
from flask_belfry.outbox.batches import Batch, batch, cancel_batch, get_batch, retry_batch, sweep_batches
from flask_belfry.outbox.broker import CircuitBreaker, connect
from flask_belfry.outbox.control import cancel, on_batches_reopened, on_retried, retry, run_now
from flask_belfry.outbox.enqueue import enqueue, enqueue_many
from flask_belfry.outbox.errors import (
    BatchStateError,
    JobArgumentError,
    JobStateError,
    JobTimeoutError,
    UnknownJobError,
)
from flask_belfry.outbox.finalizing import on_finalized
from flask_belfry.outbox.models import (
    CustomSchedule,
    Deployment,
    JobAttempt,
    JobBatch,
    JobLimit,
    JobLog,
    JobPause,
    JobRecord,
    PauseKind,
    Schedule,
    ScheduleTick,
    UniquePeriod,
    WorkerProcess,
)
from flask_belfry.outbox.pauses import active_pauses, pause
from flask_belfry.outbox.pending import PendingMessage
from flask_belfry.outbox.pruning import prune_pages, prune_records
from flask_belfry.outbox.publisher import Publisher
from flask_belfry.outbox.registry import job
from flask_belfry.outbox.requests import JobRequest
from flask_belfry.outbox.retry_policy import NO_RETRY, RetryPolicy
from flask_belfry.outbox.states import FINALIZED, LIVE, JobState

__all__ = [
    "FINALIZED",
    "LIVE",
    "NO_RETRY",
    "Batch",
    "BatchStateError",
    "CustomSchedule",
    "Deployment",
    "JobArgumentError",
    "JobAttempt",
    "JobBatch",
    "JobLimit",
    "JobLog",
    "JobPause",
    "JobRecord",
    "JobRequest",
    "JobState",
    "JobStateError",
    "JobTimeoutError",
    "PauseKind",
    "RetryPolicy",
    "Schedule",
    "ScheduleTick",
    "UniquePeriod",
    "UnknownJobError",
    "WorkerProcess",
    "active_pauses",
    "batch",
    "cancel",
    "cancel_batch",
    "enqueue",
    "enqueue_many",
    "get_batch",
    "init_app",
    "job",
    "on_batches_reopened",
    "on_finalized",
    "on_retried",
    "pause",
    "prune_pages",
    "prune_records",
    "publisher",
    "retry",
    "retry_batch",
    "run_now",
    "sweep_batches",
]

log = structlog.get_logger(__name__)


@dataclass
class Outbox:
    """The outbox of one application."""

    publisher: Publisher
    # The retry policies that depend on the settings, by the functions that return them.
    policies: dict[Callable[[Mapping[str, Any]], RetryPolicy], RetryPolicy] = field(default_factory=dict)


def init_app(app: Flask) -> None:
    """Create the publisher of `app`. The session listeners are registered below, once for all applications."""
    settings = app.config
    connection = connect(
        settings["REDIS_URL"],
        connect_timeout_seconds=settings["BROKER_CONNECT_TIMEOUT_SECONDS"],
        timeout_seconds=settings["BROKER_TIMEOUT_SECONDS"],
    )
    breaker = CircuitBreaker(settings["BROKER_RETRY_SECONDS"])
    queues = KnownQueues(settings["WORKER_BATCH"])
    app.extensions["outbox"] = Outbox(Publisher(connection, breaker, "", settings["RESULT_TTL_SECONDS"], queues))


def publisher(app: Flask | None = None) -> Publisher:
    """Return the publisher of `app` (by default the current application)."""
    return (app or current_app).extensions["outbox"].publisher


def _publish(records: Sequence[PendingMessage], backlog: Collection[str]) -> None:
    try:
        publisher().publish(records, backlog)
    except Exception:
        log.exception("publish.failed", records=len(records))


pending.listen(BelfrySession, _publish)
