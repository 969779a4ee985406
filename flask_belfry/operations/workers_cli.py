"""The commands `flask jobs workers` and `flask jobs stop-worker`."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from flask_belfry.core.commands import Command, as_json_option, echo_json
from flask_belfry.core.presentation import ago
from flask_belfry.operations import workers as service
from flask_belfry.operations.fields import worker_fields

_COLUMNS = "{:<9} {:>9} {:>9} {:>10} {:>5}  {:<60} {}"


@click.command("workers", cls=Command)
@as_json_option
@with_appcontext
def workers_command(as_json: bool) -> None:
    """List workers and schedulers with what they run."""
    found = service.workers()
    if as_json:
        return echo_json([worker_fields(worker) for worker in found])
    if found:
        click.echo(_COLUMNS.format("STATE", "HEARTBEAT", "MEMORY", "JOBS DONE", "RUNS", "NAME", "QUEUES"))
    else:
        click.echo("no process runs", err=True)
    for worker in found:
        process = worker.process
        memory = "" if process.memory_bytes is None else f"{process.memory_bytes / 1_000_000:,.0f} MB"
        done, queues = f"{process.jobs_done:,}", " ".join(worker.queues)
        values = worker.state, ago(process.heartbeat_at), memory, done, len(worker.jobs), process.name, queues
        click.echo(_COLUMNS.format(*values).rstrip())
    return None


@click.command("stop-worker", cls=Command)
@click.argument("name")
@with_appcontext
def stop_worker_command(name: str) -> None:
    """Stop worker NAME when its jobs have ended; `flask jobs worker` starts another in its place."""
    service.stop(name)
    click.echo(f"{name} stops when its jobs have ended")
