"""The pages of jobs, batches, queues and the schedule, and the health checks: imported by the web process only.

The endpoints of the API are in `api.py`: the application adds them to a blueprint of its own.
"""

from __future__ import annotations

from flask import Flask

from flask_belfry.operations import batch_views, health, queue_views, schedule_views, views


def init_app(app: Flask) -> None:
    """Register the pages."""
    app.register_blueprint(views.pages)
    app.register_blueprint(batch_views.pages)
    app.register_blueprint(queue_views.pages)
    app.register_blueprint(schedule_views.pages)
    app.register_blueprint(health.health)
