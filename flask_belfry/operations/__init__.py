"""Monitoring: every job can be seen and steered, by people and by machines."""

from __future__ import annotations

from flask import Flask

from flask_belfry.core.commands import add_lazy_command
from flask_belfry.core.presentation import register_subject
from flask_belfry.operations.services import counts_by_state, latest_failures

__all__ = ["counts_by_state", "init_app", "latest_failures"]


def init_app(app: Flask) -> None:
    """Add the commands. `flask_belfry.operations.web` adds the pages and the health checks."""
    register_subject(app, "job", "monitoring.job", "job_id")
    register_subject(app, "schedule", "schedule.list_", "name")
    add_lazy_command(app, "jobs", "flask_belfry.operations.cli:jobs")
    add_lazy_command(app, "doctor", "flask_belfry.operations.doctor:doctor_command")
    add_lazy_command(app, "schedule", "flask_belfry.operations.commands:schedule_group")
