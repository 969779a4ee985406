"""The command `flask jobs worker`, in a module of its own because only this command imports the workers."""

from __future__ import annotations

import sys
from functools import partial

import click
from flask import current_app
from flask.cli import with_appcontext

from flask_belfry.core.commands import Command
from flask_belfry.core.logs import log_start
from flask_belfry.execution.application import application
from flask_belfry.outbox.broker import connect
from flask_belfry.outbox.registry import HEAVY_QUEUES, LIGHT_QUEUES, QUEUES
from flask_belfry.workers.forking import ForkingWorker
from flask_belfry.workers.pool import Pool
from flask_belfry.workers.quarantine import QuarantineWorker
from flask_belfry.workers.threaded import ThreadedWorker


@click.command("worker", cls=Command)
@click.option("--heavy", is_flag=True, help="Process the heavy queue, each job in a forked process.")
@click.option("--queues", help=f"Comma-separated names, in order of precedence, from: {', '.join(QUEUES)}.")
@click.option("--processes", type=click.IntRange(1, 64), help="Number of workers (default: WORKER_PROCESSES).")
@click.option("--burst", is_flag=True, help="Exit when the queues are empty.")
@with_appcontext
def worker_command(heavy: bool, queues: str | None, processes: int | None, burst: bool) -> None:
    """Start workers. SIGTERM stops them within the grace period."""
    names = _queue_names(queues) if queues else list(HEAVY_QUEUES if heavy else LIGHT_QUEUES)
    classes = (ForkingWorker, None) if heavy else (ThreadedWorker, QuarantineWorker)
    count, redis_url = processes or current_app.config["WORKER_PROCESSES"], current_app.config["REDIS_URL"]
    log_start(current_app, "heavy" if heavy else "worker", queues=names, processes=count)
    # Each worker has its own client, because RQ sets the timeouts for its blocking pops on it.
    connect_worker = partial(connect, redis_url, connect_timeout_seconds=5, timeout_seconds=None)
    sys.exit(Pool(application(), *classes, names, connect_worker, count=count, burst=burst).run())


def _queue_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in QUEUES:
            raise click.BadParameter(f"must be one of {', '.join(QUEUES)}, not {name!r}", param_hint="--queues")
    return names
