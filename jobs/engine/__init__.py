"""The engine: what a job function is written against (`job`, `Chunk`, `RetryPolicy`), and what runs it.

No domain lives here. Of the application it knows `app.outbox` and `app.extensions` only.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from flask import Flask

from app.outbox import JobTimeoutError, UnknownJobError, catalogue, publisher
from jobs.engine import schedule
from jobs.engine.chunk import Answer, Chunk
from jobs.engine.context import check_cancelled, current_job
from jobs.engine.eager import direct_runner, eager_runner
from jobs.engine.entry import ENTRY_POINT
from jobs.engine.errors import JobCancelledError, ScheduleError
from jobs.engine.registry import definitions, job
from jobs.engine.retry import NO_RETRY, RetryPolicy
from jobs.engine.schedule import ScheduleEntry

__all__ = [
    "NO_RETRY",
    "Answer",
    "Chunk",
    "JobCancelledError",
    "JobTimeoutError",
    "RetryPolicy",
    "ScheduleEntry",
    "check_cancelled",
    "current_job",
    "init_app",
    "job",
]


def init_app(app: Flask, entries: Sequence[ScheduleEntry]) -> None:
    """Tells `app` which jobs there are and how they reach a worker; checks the schedule.

    Raises:
        SystemExit: an entry of the schedule is wrong; the one line says which, and why.
    """
    catalogue(app).add(definition.spec(app.config) for definition in definitions())
    publisher(app).entry_point = ENTRY_POINT
    publisher(app).run_directly = direct_runner(app)
    if app.config["JOBS_EAGER"]:
        publisher(app).run_eagerly = eager_runner(app)
    app.extensions["schedule"] = list(entries)
    with app.app_context():
        try:
            schedule.check(entries, app.config)
        except (ScheduleError, UnknownJobError) as error:
            sys.exit(f"belfry: {error}")
