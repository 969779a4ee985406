"""The pages of operations, jobs, batches, queues, workers and the schedule, and the health checks.

Only the web process imports them. The endpoints of the API are in `api.py` and `runtime_api.py`: the application adds
them to a blueprint of its own.
"""

from __future__ import annotations

from flask import Flask

from flask_belfry.operations import (
    batch_views,
    bulk_views,
    enqueue_views,
    failure_views,
    health,
    metrics_views,
    overview_views,
    queue_views,
    schedule_views,
    views,
    worker_views,
)


def init_app(app: Flask) -> None:
    """Register the pages."""
    app.register_blueprint(overview_views.pages)
    app.register_blueprint(views.pages)
    app.register_blueprint(batch_views.pages)
    app.register_blueprint(bulk_views.pages)
    app.register_blueprint(enqueue_views.pages)
    app.register_blueprint(failure_views.pages)
    app.register_blueprint(queue_views.pages)
    app.register_blueprint(schedule_views.pages)
    app.register_blueprint(worker_views.pages)
    app.register_blueprint(health.health)
    app.register_blueprint(metrics_views.pages)
