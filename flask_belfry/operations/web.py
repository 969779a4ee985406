"""The pages of jobs and of the schedule, and the health checks."""

from __future__ import annotations

from flask import Flask

from flask_belfry.operations import health, schedule_pages, views


def init_app(app: Flask) -> None:
    """Add them."""
    app.register_blueprint(views.pages)
    app.register_blueprint(schedule_pages.pages)
    app.register_blueprint(health.health)
