"""The command group `flask schedule`."""

from __future__ import annotations

from typing import Any

import click

from flask_belfry.core.commands import CommandGroup, as_json_option, echo_json
from flask_belfry.operations import periodic
from flask_belfry.scheduler import ScheduleEntry

schedule = CommandGroup("schedule", help="Lists, runs, pauses and resumes periodic jobs.")


@schedule.command("list")
@as_json_option
def list_command(as_json: bool) -> None:
    """List the periodic jobs with their times in words, their time zone and their next five run times."""
    rows = [_fields(entry) for entry in periodic.entries()]
    if as_json:
        return echo_json(rows)
    for row in rows:
        click.echo(f"{row['name']}  {row['description']} ({row['zone']})  {row['state']}")
        for run in row["next_runs"]:
            click.echo(f"    {run}")
    return None


@schedule.command("run")
@click.argument("name")
def run_command(name: str) -> None:
    """Enqueue periodic job NAME now."""
    click.echo(periodic.run_now(name))


@schedule.command("pause")
@click.argument("name")
def pause_command(name: str) -> None:
    """Pause periodic job NAME: its run times pass without a job."""
    periodic.pause(name)
    click.echo(f"{name} paused")


@schedule.command("resume")
@click.argument("name")
def resume_command(name: str) -> None:
    """Resume periodic job NAME, from its next run time."""
    periodic.resume(name)
    click.echo(f"{name} resumed")


def _fields(entry: ScheduleEntry) -> dict[str, Any]:
    job = periodic.periodic_job(entry, next_runs=5)
    return {
        "name": entry.name,
        "job": entry.job,
        "description": job.description,
        "expression": job.expression,
        "zone": job.zone,
        "state": "paused" if job.paused_at else "active",
        "last_run_at": job.last_tick_at.isoformat() if job.last_tick_at else None,
        "next_runs": [run.isoformat() for run in job.next_runs],
    }
