"""The pages of jobs and of the schedule, and the health checks: imported by the web process only."""

from __future__ import annotations

from flask import Flask

from flask_belfry.operations import health, schedule_views, views


def init_app(app: Flask) -> None:
    """Register the pages."""
    app.register_blueprint(views.pages)
    app.register_blueprint(schedule_views.pages)
    app.register_blueprint(health.health)
