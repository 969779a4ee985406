"""The transactional outbox: a job exists if and only if the transaction that asked for it committed.

This face is all that slices and the engine use: asking (`enqueue`), declaring hooks (`on_created`, `on_change`),
steering (`retry`, `cancel`), and the models behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from flask import Flask, current_app

from app.extensions import BelfrySession
from app.outbox import buffer, hooks
from app.outbox.broker import CircuitBreaker, connect
from app.outbox.buffer import Published, hold
from app.outbox.changes import (
    Change,
    Creation,
    on_change,
    on_created,
    record_changes,
    recorded_columns,
    school_column,
    school_of_row,
    subject_of,
    subject_type,
)
from app.outbox.deployment import MEMORY_KEY, BrokerOwnership, scheduler_passes
from app.outbox.enqueue import (
    JobRequest,
    current_session,
    due_after,
    enqueue,
    enqueue_many,
    insert_ignoring_conflicts,
)
from app.outbox.errors import (
    ForeignBrokerError,
    HookError,
    JobArgumentError,
    JobStateError,
    JobTimeoutError,
    OriginError,
    OutboxError,
    UnknownJobError,
)
from app.outbox.finalizing import announce_finalized, on_finalized
from app.outbox.locking import unlocked
from app.outbox.models import (
    JOB_NAME_CHARACTERS,
    QUARANTINE,
    AttemptOutcome,
    Deployment,
    JobAttempt,
    JobRecord,
    Schedule,
    ScheduleTick,
    StatusChange,
    TickOutcome,
    WorkerProcess,
)
from app.outbox.origin import (
    Origin,
    Subject,
    acting_as,
    current_origin,
    for_school,
    reference_problems,
    school_of,
    set_origin,
)
from app.outbox.pruning import prune_records
from app.outbox.publisher import LIMITS_PREFIX, TIMERS_KEY, Publisher
from app.outbox.relay import RelayReport, relay, relay_pages
from app.outbox.specs import HEAVY_QUEUES, LIGHT_QUEUES, QUEUES, JobCatalogue, JobSpec, catalogue
from app.outbox.states import ENDED, LIVE, TIMED, TRANSITIONS, WAITING, JobState, sources_of
from app.outbox.steering import cancel, retry

__all__ = [
    "ENDED",
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
    "Change",
    "Creation",
    "Deployment",
    "ForeignBrokerError",
    "HookError",
    "JobArgumentError",
    "JobAttempt",
    "JobCatalogue",
    "JobRecord",
    "JobRequest",
    "JobSpec",
    "JobState",
    "JobStateError",
    "JobTimeoutError",
    "Origin",
    "OriginError",
    "OutboxError",
    "Published",
    "Publisher",
    "RelayReport",
    "Schedule",
    "ScheduleTick",
    "StatusChange",
    "Subject",
    "TickOutcome",
    "UnknownJobError",
    "WorkerProcess",
    "acting_as",
    "announce_finalized",
    "cancel",
    "catalogue",
    "current_origin",
    "current_session",
    "due_after",
    "enqueue",
    "enqueue_many",
    "for_school",
    "hold",
    "init_app",
    "insert_ignoring_conflicts",
    "on_change",
    "on_created",
    "on_finalized",
    "prune_records",
    "publisher",
    "record_changes",
    "recorded_columns",
    "reference_problems",
    "relay",
    "relay_pages",
    "retry",
    "scheduler_passes",
    "school_column",
    "school_of",
    "school_of_row",
    "set_origin",
    "sources_of",
    "subject_of",
    "subject_type",
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


def _publish(records: Sequence[Published]) -> None:
    try:
        publisher().publish(records)
    except Exception:
        log.exception("publish.failed", records=len(records))


hooks.listen(BelfrySession)
buffer.listen(BelfrySession, _publish)
