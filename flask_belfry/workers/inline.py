"""Inline execution: jobs run in the process that enqueued them, without a broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar

import sqlalchemy as sa
from flask import Flask

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.execution import claim as claims
from flask_belfry.execution import executor, heartbeat
from flask_belfry.execution.journal import journal
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.outbox import JobRecord, JobState

_waiting: ContextVar[list[str] | None] = ContextVar("eager_jobs", default=None)


def inline_runner(app: Flask) -> Callable[[Sequence[str]], None]:
    """Return a function that runs records by id, each in a session of its own, for JOBS_EAGER.

    Jobs that these enqueue run after them, in the order of their commits. Delayed jobs, retries and snoozed jobs wait
    for a worker.
    """

    def run(ids: Sequence[str]) -> None:
        waiting = _waiting.get()
        if waiting is not None:
            waiting += ids
            return
        token = _waiting.set(waiting := list(ids))
        try:
            _drain(app, waiting)
        finally:
            _waiting.reset(token)

    return run


def inline_job_runner(app: Flask) -> Callable[[str], None]:
    """Return a function that runs one record by id immediately, also when it is scheduled for later.

    It does nothing when a worker has claimed the record. If this process crashes, the rescuer finds the record, as with
    any worker.
    """

    def run(id: str) -> None:
        name = heartbeat.process_name("direct")
        with heartbeat.kept_alive(app, name, "direct"):
            with app.app_context():
                _bring_forward(id)
            _run_one(app, id, name)

    return run


def _drain(app: Flask, waiting: list[str]) -> None:
    name = heartbeat.process_name("eager")
    with heartbeat.kept_alive(app, name, "eager"):
        while waiting:
            _run_one(app, waiting.pop(0), name)


def _run_one(app: Flask, id: str, name: str) -> None:
    with app.app_context():
        items = claims.claim(db.session(), [id], name)
    if items:
        executor.run(app, items, no_limit)
        journal(app).flush()  # the process may end now


def _bring_forward(id: str) -> None:
    # Neither a retryable nor a snoozed one: its delay has a reason.
    is_waiting = sa.and_(JobRecord.id == id, JobRecord.state == JobState.SCHEDULED, JobRecord.snoozes == 0)
    db.session.execute(sa.update(JobRecord).where(is_waiting).values(scheduled_at=utc_now()))
    db.session.commit()
