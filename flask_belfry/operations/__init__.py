"""Monitoring: every job can be seen and steered, by people and by machines."""

from __future__ import annotations

from flask import Flask

from flask_belfry.core.presentation import register_subject
from flask_belfry.operations.cli import doctor_command, jobs
from flask_belfry.operations.health import health
from flask_belfry.operations.services import counts_by_state, latest_failures
from flask_belfry.operations.views import pages

__all__ = ["counts_by_state", "init_app", "latest_failures"]


def init_app(app: Flask) -> None:
    """Adds the pages, the health checks and the commands."""
    app.register_blueprint(pages)
    register_subject(app, "job", "monitoring.job", "job_id")
    app.register_blueprint(health)
    app.cli.add_command(jobs)
    app.cli.add_command(doctor_command)
