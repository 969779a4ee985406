"""What a stock RQ worker calls: one record, by id."""

from __future__ import annotations

import os

import structlog

from flask_belfry.db import db
from flask_belfry.execution import claim as claims
from flask_belfry.execution import execution, heartbeat
from flask_belfry.execution.application import application
from flask_belfry.execution.deadlines import alarm
from flask_belfry.outbox import JobState

log = structlog.get_logger(__name__)

ENTRY_POINT = f"{__name__}.run"


def run(record_id: str) -> str | None:
    """Claims the record and runs it to its end in this process.

    Args:
        record_id: the record's id, which is the RQ job's too.

    Returns:
        the state it went to; None when there was nothing to do: unknown, ended, or another worker's.
    """
    app = application()
    name = _worker_name()
    with app.app_context():
        items = claims.claim(db.session(), [record_id], name)
    if not items:
        log.warning("job.not_claimed", job_id=record_id)
        return None
    with heartbeat.kept_alive(app, name, "horse"):
        ends = dict(execution.run(app, items, alarm))
    state: JobState | None = ends.get(record_id)
    return state.value if state else None


def _worker_name() -> str:
    # RQ tells its horses the worker's name. Ours beats for its horses; RQ's own worker classes do not.
    return os.environ.get("RQ_WORKER_ID") or heartbeat.process_name("process")
