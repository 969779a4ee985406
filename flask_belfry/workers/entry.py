"""The entry point for RQ's own worker classes: run one record by id."""

from __future__ import annotations

import os

import structlog

from flask_belfry.db import db
from flask_belfry.execution import claim as claims
from flask_belfry.execution import executor, heartbeat
from flask_belfry.execution.application import application
from flask_belfry.execution.journal import journal
from flask_belfry.execution.time_limits import alarm
from flask_belfry.outbox import JobState

log = structlog.get_logger(__name__)

ENTRY_POINT = f"{__name__}.run"


def run(record_id: str) -> str | None:
    """Claim the record, run it in this process and commit its new state.

    Args:
        record_id: the record's id, which is also the RQ job's.

    Returns:
        the state it went to; None when it was not claimed: unknown, finalized, or another worker's.
    """
    app = application()
    # RQ passes the worker's name to its work horses. RQ's own worker classes send no heartbeats for it.
    name = os.environ.get("RQ_WORKER_ID") or heartbeat.process_name("process")
    with app.app_context():
        items = claims.claim(db.session(), [record_id], name)
    if not items:
        log.warning("job.not_claimed", job_id=record_id)
        return None
    with heartbeat.kept_alive(app, name, "horse"):
        state: JobState | None = dict(executor.run(app, items, alarm)).get(record_id)
    journal(app).flush()  # RQ ends the process of the job
    return state.value if state else None
