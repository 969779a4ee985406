"""The composition root of the scheduler process."""

from __future__ import annotations

from flask import Flask

from cli import create
from flask_belfry.core.logs import log_start
from flask_belfry.outbox import publisher
from flask_belfry.outbox.broker import connect
from flask_belfry.scheduler.scheduler import BelfryScheduler


def main(app: Flask) -> None:
    """Run until SIGTERM or SIGINT."""
    connection = connect(app.config["REDIS_URL"], connect_timeout_seconds=2, timeout_seconds=2)
    pusher = publisher(app)
    # The scheduler may wait longer for Redis than a request may, but not so long that its heartbeats come late.
    pusher.connection = connection
    log_start(app, "scheduler")
    BelfryScheduler(app, connection, pusher, app.extensions["schedule"]).run()


if __name__ == "__main__":
    main(create())
