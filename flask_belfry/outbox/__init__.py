"""The transactional outbox: a job exists if and only if the transaction that asked for it committed.

Its public API: `enqueue`, `retry` and `cancel`, and the models behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from flask import Flask, current_app

from flask_belfry.db import BelfrySession
from flask_belfry.outbox import pending as buffer
from flask_belfry.outbox.broker import CircuitBreaker, connect
from flask_belfry.outbox.control import cancel, retry
from flask_belfry.outbox.deployment import MEMORY_KEY, BrokerOwnership, scheduler_passes
from flask_belfry.outbox.enqueue import JobRequest, due_after, enqueue, enqueue_many
from flask_belfry.outbox.errors import (
    ForeignBrokerError,
    JobArgumentError,
    JobStateError,
    JobTimeoutError,
    OutboxError,
    UnknownJobError,
)
from flask_belfry.outbox.finalizing import announce_finalized, on_finalized
from flask_belfry.outbox.locking import unlocked
from flask_belfry.outbox.models import (
    JOB_NAME_CHARACTERS,
    QUARANTINE,
    AttemptOutcome,
    Deployment,
    JobAttempt,
    JobRecord,
    Schedule,
    ScheduleTick,
    TickOutcome,
    WorkerProcess,
)
from flask_belfry.outbox.pending import PendingMessage, publish_on_commit
from flask_belfry.outbox.pruning import prune_records
from flask_belfry.outbox.publisher import LIMITS_PREFIX, TIMERS_KEY, Publisher
from flask_belfry.outbox.relay import RelayReport, relay, relay_pages
from flask_belfry.outbox.specs import HEAVY_QUEUES, LIGHT_QUEUES, QUEUES, JobCatalogue, JobSpec, catalogue
from flask_belfry.outbox.states import FINALIZED, LIVE, TIMED, TRANSITIONS, WAITING, JobState, sources_of

__all__ = [
    "FINALIZED",
    "HEAVY_QUEUES",
    "JOB_NAME_CHARACTERS",
    "LIGHT_QUEUES",
    "LIMITS_PREFIX",
    "LIVE",
    "MEMORY_KEY",
    "QUARANTINE",
    "QUEUES",
    "TIMED",
    "TIMERS_KEY",
    "TRANSITIONS",
    "WAITING",
    "AttemptOutcome",
    "BrokerOwnership",
    "Deployment",
    "ForeignBrokerError",
    "JobArgumentError",
    "JobAttempt",
    "JobCatalogue",
    "JobRecord",
    "JobRequest",
    "JobSpec",
    "JobState",
    "JobStateError",
    "JobTimeoutError",
    "OutboxError",
    "PendingMessage",
    "Publisher",
    "RelayReport",
    "Schedule",
    "ScheduleTick",
    "TickOutcome",
    "UnknownJobError",
    "WorkerProcess",
    "announce_finalized",
    "cancel",
    "catalogue",
    "due_after",
    "enqueue",
    "enqueue_many",
    "init_app",
    "on_finalized",
    "prune_records",
    "publish_on_commit",
    "publisher",
    "relay",
    "relay_pages",
    "retry",
    "scheduler_passes",
    "sources_of",
    "unlocked",
]

log = structlog.get_logger(__name__)


@dataclass
class Outbox:
    """The outbox of one application."""

    publisher: Publisher
    catalogue: JobCatalogue = field(default_factory=JobCatalogue)


def init_app(app: Flask) -> None:
    """Gives `app` its catalogue and publisher. The session listeners are set below, once for all applications."""
    settings = app.config
    connection = connect(
        settings["REDIS_URL"],
        connect_timeout_seconds=settings["BROKER_CONNECT_TIMEOUT_SECONDS"],
        timeout_seconds=settings["BROKER_TIMEOUT_SECONDS"],
    )
    breaker = CircuitBreaker(settings["BROKER_RETRY_SECONDS"])
    app.extensions["outbox"] = Outbox(Publisher(connection, breaker, "", settings["RESULT_TTL_SECONDS"]))


def publisher(app: Flask | None = None) -> Publisher:
    """The publisher of `app` (the current one by default)."""
    return (app or current_app).extensions["outbox"].publisher


def _publish(records: Sequence[PendingMessage]) -> None:
    try:
        publisher().publish(records)
    except Exception:
        log.exception("publish.failed", records=len(records))


buffer.listen(BelfrySession, _publish)
