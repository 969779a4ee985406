"""Binding Belfry to an application."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from flask import Flask

from flask_belfry.execution import job_logs
from flask_belfry.outbox import UnknownJobError, publisher
from flask_belfry.outbox.registry import definitions
from flask_belfry.scheduler import ScheduleEntry, ScheduleError, schedule
from flask_belfry.workers.entry import ENTRY_POINT
from flask_belfry.workers.inline import inline_job_runner, inline_runner


def init_app(app: Flask, entries: Sequence[ScheduleEntry]) -> None:
    """Bind the registered jobs and their schedule to `app`, and check the schedule.

    Raises:
        SystemExit: an entry of the schedule is invalid; the message names it and the reason.
    """
    publisher(app).entry_point = ENTRY_POINT
    publisher(app).run_job_inline = inline_job_runner(app)
    if app.config["JOBS_EAGER"]:
        publisher(app).run_inline = inline_runner(app)
    job_logs.init_app(app)
    app.extensions["schedule"] = list(entries)
    with app.app_context():
        for found in definitions():
            found.policy()
        try:
            schedule.check(entries, app.config)
        except (ScheduleError, UnknownJobError) as error:
            sys.exit(f"belfry: {error}")
