"""Commands over the engine: `flask jobs worker`, and the group `flask schedule`."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import click
from flask import current_app
from flask.cli import with_appcontext

from flask_belfry.core.commands import Command, CommandGroup, as_json_option, echo_json
from flask_belfry.core.logs import log_start
from flask_belfry.execution.application import application
from flask_belfry.operations import periodic
from flask_belfry.outbox.broker import connect
from flask_belfry.outbox.registry import HEAVY_QUEUES, LIGHT_QUEUES, QUEUES
from flask_belfry.scheduler import ScheduleEntry
from flask_belfry.workers.forking import ForkingWorker
from flask_belfry.workers.pool import Pool
from flask_belfry.workers.threaded import QuarantineWorker, ThreadedWorker

schedule_group = CommandGroup("schedule", help="The periodic schedule.")


@click.command("worker", cls=Command)
@click.option("--heavy", is_flag=True, help="Work on the heavy queue, one forked process per job.")
@click.option("--queues", help=f"Names with commas, in order of precedence, of: {', '.join(QUEUES)}.")
@click.option("--processes", type=click.IntRange(1, 64), help="How many workers (WORKER_PROCESSES).")
@click.option("--burst", is_flag=True, help="End when the queues are empty.")
@with_appcontext
def worker_command(heavy: bool, queues: str | None, processes: int | None, burst: bool) -> None:
    """Start workers; they end with SIGTERM, within the grace."""
    names = _queue_names(queues) if queues else list(HEAVY_QUEUES if heavy else LIGHT_QUEUES)
    classes = (ForkingWorker, None) if heavy else (ThreadedWorker, QuarantineWorker)
    count, redis_url = processes or current_app.config["WORKER_PROCESSES"], current_app.config["REDIS_URL"]
    log_start(current_app, "heavy" if heavy else "worker", queues=names, processes=count)
    # RQ sets the timeouts that its blocking pops need on a client of the worker's own.
    connect_worker = partial(connect, redis_url, connect_timeout_seconds=5, timeout_seconds=None)
    sys.exit(Pool(application(), *classes, names, connect_worker, count=count, burst=burst).run())


@schedule_group.command("list")
@as_json_option
def list_schedules(as_json: bool) -> None:
    """Every schedule in plain words, with its zone and its next five ticks."""
    rows = [_described(entry) for entry in periodic.entries()]
    if as_json:
        return echo_json(rows)
    for row in rows:
        click.echo(f"{row['name']}  {row['timing']} ({row['zone']})  {row['state']}")
        for tick in row["next_ticks"]:
            click.echo(f"    {tick}")
    return None


@schedule_group.command("run")
@click.argument("name")
def run_schedule(name: str) -> None:
    """Enqueue the job of schedule NAME now."""
    click.echo(periodic.run_now(name))


@schedule_group.command("pause")
@click.argument("name")
def pause_schedule(name: str) -> None:
    """Let the ticks of schedule NAME pass without a job."""
    periodic.pause(name)
    click.echo(f"{name} paused")


@schedule_group.command("resume")
@click.argument("name")
def resume_schedule(name: str) -> None:
    """Let schedule NAME run again, from its next tick on."""
    periodic.resume(name)
    click.echo(f"{name} resumed")


def _described(entry: ScheduleEntry) -> dict[str, Any]:
    job = periodic.periodic_job(entry, next_runs=5)
    return {
        "name": entry.name,
        "job": entry.job,
        "timing": job.timing,
        "expression": job.expression,
        "zone": job.zone,
        "state": "paused" if job.paused_at else "active",
        "last_tick_at": job.last_tick_at.isoformat() if job.last_tick_at else None,
        "next_ticks": [run.isoformat() for run in job.next_runs],
    }


def _queue_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in QUEUES:
            raise click.BadParameter(f"takes {', '.join(QUEUES)}, not {name!r}", param_hint="--queues")
    return names
