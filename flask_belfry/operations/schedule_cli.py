"""The command group `flask schedule`."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import click

from flask_belfry.core.commands import CommandGroup, as_json_option, echo_json
from flask_belfry.operations import custom_schedules, periodic
from flask_belfry.operations.custom_schedules import Draft
from flask_belfry.operations.fields import schedule_fields
from flask_belfry.operations.queues_cli import Duration
from flask_belfry.outbox import CustomSchedule

schedule = CommandGroup("schedule", help="Lists, makes, runs, pauses and resumes periodic jobs.")


class JsonObject(click.ParamType):
    """A JSON object."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Return the object."""
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            self.fail(f"must be a JSON object such as '{{\"user_id\": 7}}', not {value!r}", param, ctx)
        return found


_args = click.option("--args", type=JsonObject(), help="The arguments of its jobs as a JSON object.")
_cron = click.option("--cron", help="A cron line such as '0 7 * * MON-FRI'; this or --every.")
_every = click.option("--every", type=Duration(), help="An interval such as 30s, 15m, 2h, 7d.")
_zone = click.option("--zone", help="The time zone of the cron line (default: TIMEZONE).")
_school = click.option("--school", "school_id", type=int, help="The id of the school that its jobs run for.")


@schedule.command("list")
@as_json_option
def list_command(as_json: bool) -> None:
    """List the periodic jobs with their times in words, their time zone, their last and their next five run times."""
    rows = [schedule_fields(entry) for entry in periodic.entries()]
    if as_json:
        return echo_json(rows)
    for row in rows:
        owner = f"  by {row['owner'] or 'the system'}" if row["is_custom"] else ""
        click.echo(f"{row['name']}  {row['description']} ({row['zone']})  {row['state']}{owner}")
        if row["is_custom"]:
            click.echo(f"    {row['job']} {json.dumps(row['args'], ensure_ascii=False)}")
        if row["problem"]:
            click.echo(f"    does not run: {row['problem']}")
        for past in reversed(row["last_runs"]):
            late = f" by {past['late_seconds']:.0f} s" if past["outcome"] == "late" else ""
            click.echo(f"    {past['at']}  {past['outcome'].replace('_', ' ')}{late}")
        for run in row["next_runs"]:
            click.echo(f"    {run}")
    return None


@schedule.command("create")
@click.argument("name")
@click.option("--job", required=True, help="The name of the job.")
@_args
@_cron
@_every
@_zone
@_school
def create_command(
    name: str,
    job: str,
    args: dict[str, Any] | None,
    cron: str | None,
    every: timedelta | None,
    zone: str | None,
    school_id: int | None,
) -> None:
    """Make schedule NAME, which becomes custom.NAME, as the system, and print its next five run times."""
    draft = Draft(name, job, args or {}, cron, _seconds(every), zone or "", school_id)
    _show_runs(custom_schedules.create(draft))


@schedule.command("update")
@click.argument("name")
@click.option("--job", help="The name of the job.")
@_args
@_cron
@_every
@_zone
@_school
def update_command(name: str, cron: str | None, every: timedelta | None, **changes: Any) -> None:
    """Change what is given of schedule NAME, which the system owns from then on, and print its next five run times."""
    draft = custom_schedules.draft_of(custom_schedules.lock_schedule(name))
    if cron is not None or every is not None:
        draft = replace(draft, cron=cron, every_seconds=_seconds(every))
    given = {field: value for field, value in changes.items() if value is not None}
    _show_runs(custom_schedules.update(name, replace(draft, **given)))


@schedule.command("delete")
@click.argument("name")
def delete_command(name: str) -> None:
    """Delete schedule NAME, which was made at run time."""
    custom_schedules.delete(name)
    click.echo(f"{name} deleted")


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


def _seconds(every: timedelta | None) -> int | None:
    return None if every is None else int(every.total_seconds())


def _show_runs(row: CustomSchedule) -> None:
    timing = custom_schedules.timing_of(custom_schedules.draft_of(row))
    click.echo(f"{row.name}  {timing.describe()} ({row.zone})")
    for run in custom_schedules.next_runs(timing):
        click.echo(f"    {run.isoformat()}")
