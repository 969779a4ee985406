"""Monitoring: every job can be seen and steered, by people and by machines."""

from __future__ import annotations

from flask import Flask

from app.monitoring.cli import doctor_command, jobs
from app.monitoring.health import health
from app.monitoring.services import counts_by_state, latest_failures
from app.monitoring.views import pages
from app.presentation import register_subject

__all__ = ["counts_by_state", "init_app", "latest_failures"]


def init_app(app: Flask) -> None:
    """Adds the pages, the health checks and the commands."""
    app.register_blueprint(pages)
    register_subject(app, "job", "monitoring.job", "job_id")
    app.register_blueprint(health)
    app.cli.add_command(jobs)
    app.cli.add_command(doctor_command)
