"""The command group `flask queues`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import click

from flask_belfry.core.commands import CommandGroup, as_json_option, echo_json
from flask_belfry.core.presentation import rounded_up
from flask_belfry.operations import queues as service
from flask_belfry.operations.fields import pause_fields
from flask_belfry.outbox.models import PauseKind

queues = CommandGroup("queues", help="Lists, pauses and resumes queues, job names and limit keys.")

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_kind = click.option(
    "--kind", type=click.Choice([kind.value for kind in PauseKind]), help="What NAME is, if that is ambiguous."
)


class Duration(click.ParamType):
    """A duration such as 30m, 2h, 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the duration."""
        found = re.fullmatch(r"(\d{1,8})([smhd])", value)
        if found is None:
            self.fail(f"must be a duration such as 30m, 2h, 7d, not {value!r}", param, ctx)
        return timedelta(**{_UNITS[found[2]]: int(found[1])})


@queues.command("list")
@as_json_option
def list_command(as_json: bool) -> None:
    """List the queues with what waits in them, and all pauses."""
    found = service.active_pauses()
    rows = [
        {
            "name": queue.name,
            "waiting": queue.waiting,
            "per_minute": round(queue.per_minute, 1),
            "drain_seconds": None if queue.drain_seconds is None else round(queue.drain_seconds),
            "blocked_by_limit": queue.blocked_by_limit,
            "blocked_by_pause": queue.blocked_by_pause,
            "is_paused": queue.pause is not None,
        }
        for queue in service.queues(found)
    ]
    paused = pause_fields(found)
    if as_json:
        return echo_json({"queues": rows, "pauses": paused})
    for row in rows:
        blocked = f"blocked: {row['blocked_by_limit']} by limits, {row['blocked_by_pause']} by pauses"
        drain = f", {rounded_up(row['drain_seconds'])} to drain" if row["drain_seconds"] else ""
        rate = f"  {row['per_minute']:,.1f} per minute{drain}" if row["per_minute"] else ""
        paused_mark = "  PAUSED" if row["is_paused"] else ""
        click.echo(f"{row['name']:<8} {row['waiting']:>7} waiting  {blocked}{rate}{paused_mark}")
    for row in paused:
        end = f"until {row['ends_at']}" if row["ends_at"] else "until it is resumed"
        reason = f": {row['reason']}" if row["reason"] else ""
        click.echo(f"paused: {row['kind']} {row['name']}, by {row['paused_by'] or 'the system'}, {end}{reason}")
    return None


@queues.command("pause")
@click.argument("name")
@click.option("--for", "duration", type=Duration(), help="How long, such as 30m, 2h, 7d (default: until resumed).")
@click.option("--reason", help="Shown to users; at most 200 characters.")
@_kind
def pause_command(name: str, duration: timedelta | None, reason: str | None, kind: str | None) -> None:
    """Pause NAME: a queue, a job name or a limit key. Running jobs continue."""
    found = PauseKind(kind) if kind else service.kind_of(name)
    service.pause(found, name, reason=reason, duration=duration)
    click.echo(f"{found.value} {name} paused")


@queues.command("resume")
@click.argument("name")
@_kind
def resume_command(name: str, kind: str | None) -> None:
    """Resume NAME: a paused queue, job name or limit key."""
    found = PauseKind(kind) if kind else service.kind_of_pause(name)
    service.resume(found, name)
    click.echo(f"{found.value} {name} resumed")
