"""Commands over the engine: `flask jobs worker`, and the group `flask schedule`."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from functools import partial
from typing import Any

import click
import sqlalchemy as sa
from flask import Flask, current_app
from flask.cli import with_appcontext

from app import audit
from app.columns import utc_now
from app.commands import CommandGroup
from app.extensions import db
from app.outbox import HEAVY_QUEUES, LIGHT_QUEUES, QUEUES, Schedule, Subject
from app.outbox.broker import connect
from jobs.engine import schedule as schedules
from jobs.engine.application import application
from jobs.engine.errors import ScheduleError
from jobs.engine.heavy import HeavyWorker
from jobs.engine.light import LightWorker, QuarantineWorker
from jobs.engine.pool import Pool
from jobs.engine.timing import Timing

schedule_group = CommandGroup("schedule", help="The periodic schedule.")


@click.command("worker")
@click.option("--heavy", is_flag=True, help="Work on the heavy queue, one forked process per job.")
@click.option("--queues", help=f"Names with commas, in order of precedence, of: {', '.join(QUEUES)}.")
@click.option("--processes", type=click.IntRange(1, 64), help="How many workers (WORKER_PROCESSES).")
@click.option("--burst", is_flag=True, help="End when the queues are empty.")
@with_appcontext
def worker_command(heavy: bool, queues: str | None, processes: int | None, burst: bool) -> None:
    """Start workers; they end with SIGTERM, within the grace."""
    names = _queue_names(queues) if queues else list(HEAVY_QUEUES if heavy else LIGHT_QUEUES)
    classes = (HeavyWorker, None) if heavy else (LightWorker, QuarantineWorker)
    count, redis_url = processes or current_app.config["WORKER_PROCESSES"], current_app.config["REDIS_URL"]
    # RQ sets the timeouts that its blocking pops need on a client of the worker's own.
    connect_worker = partial(connect, redis_url, connect_timeout_seconds=5, timeout_seconds=None)
    sys.exit(Pool(application(), *classes, names, connect_worker, count=count, burst=burst).run())


@schedule_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_schedules(as_json: bool) -> None:
    """Every schedule in plain words, with its zone and its next five ticks."""
    rows = [_described(entry) for entry in entries()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['name']}  {row['timing']} ({row['zone']})  {row['state']}")
        for tick in row["next_ticks"]:
            click.echo(f"    {tick}")


@schedule_group.command("run")
@click.argument("name")
def run_schedule(name: str) -> None:
    """Enqueue the job of schedule NAME now."""
    try:
        job_id = schedules.run_now(db.session(), name)
    except ScheduleError as error:
        raise click.ClickException(str(error)) from error
    db.session.commit()
    click.echo(job_id)


@schedule_group.command("pause")
@click.argument("name")
def pause_schedule(name: str) -> None:
    """Let the ticks of schedule NAME pass without a job."""
    _set_paused(name, utc_now())


@schedule_group.command("resume")
@click.argument("name")
def resume_schedule(name: str) -> None:
    """Let schedule NAME run again, from its next tick on."""
    for entry in entries():
        if entry.name == name:
            schedules.tick(db.session(), entry)  # those that passed while no scheduler ran are not caught up on
    _set_paused(name, None)


def init_app(app: Flask) -> None:
    """Adds the commands. The group `jobs` is the application's; this adds to it."""
    app.cli.add_command(schedule_group)
    jobs_group: Any = app.cli.commands["jobs"]
    jobs_group.add_command(worker_command)


def entries() -> list[schedules.ScheduleEntry]:
    """The schedule of the current application."""
    return current_app.extensions["schedule"]


def _described(entry: schedules.ScheduleEntry) -> dict[str, Any]:
    timing, zone = entry.timing(current_app.config), entry.zone_name(current_app.config)
    row = db.session.get(Schedule, entry.name)
    is_paused = row is not None and row.paused_at is not None
    return {
        "name": entry.name,
        "job": entry.job,
        "timing": timing.describe(),
        "expression": str(timing),
        "zone": zone,
        "state": "paused" if is_paused else "active",
        "last_tick_at": row.last_tick_at.isoformat() if row and row.last_tick_at else None,
        "next_ticks": [] if is_paused else [tick.isoformat() for tick in _next_ticks(timing, 5)],
    }


def _next_ticks(timing: Timing, count: int) -> list[datetime]:
    ticks = [timing.next_tick(utc_now())]
    while len(ticks) < count:
        ticks.append(timing.next_tick(ticks[-1]))
    return ticks


def _set_paused(name: str, moment: datetime | None) -> None:
    statement = sa.update(Schedule).where(Schedule.name == name).values(paused_at=moment)
    result: Any = db.session.execute(statement)
    audit.record(f"schedule.{'pause' if moment else 'resume'}", Subject("schedule", name[:40]))
    if result.rowcount == 0:
        db.session.rollback()
        raise click.ClickException(f"no schedule is named {name!r}: `flask schedule list` lists them")
    db.session.commit()
    click.echo(f"{name} {'paused' if moment else 'resumed'}")


def _queue_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in QUEUES:
            raise click.BadParameter(f"takes {', '.join(QUEUES)}, not {name!r}", param_hint="--queues")
    return names
