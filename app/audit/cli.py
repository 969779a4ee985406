"""The commands `flask audit …`."""

from __future__ import annotations

from dataclasses import asdict

import click

from app.audit.queries import AuditEvent, Filters, list_events
from flask_belfry.core.commands import CommandGroup, as_json_option, echo_json
from flask_belfry.db.columns import MAX_INTEGER
from flask_belfry.db.pagination import MAX_LIMIT

audit = CommandGroup("audit", help="Show which user did what to which row, from where.")


@audit.command("list")
@click.option("--action", help="Only this action, e.g. job.retry or reservation.status.")
@click.option("--user", "user_id", type=click.IntRange(1, MAX_INTEGER), help="Only events of the user with this id.")
@click.option("--subject", help="Only events of this subject: a type, or type/id.")
@click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=25, show_default=True)
@as_json_option
def list_(action: str | None, user_id: int | None, subject: str | None, limit: int, as_json: bool) -> None:
    """List audit events, newest first."""
    events = list_events(Filters(action, user_id, subject), limit=limit).items
    if as_json:
        return echo_json([asdict(event) for event in events])
    for event in events:
        click.echo(_line(event))
    if not events:
        click.echo("no audit events match", err=True)
    return None


def _line(event: AuditEvent) -> str:
    who = f"user {event.user_id}" if event.user_id else "job" if event.job_id else "system"
    subject = f"{event.subject_type}/{event.subject_id}" if event.subject_type else "-"
    return f"{event.at:%Y-%m-%d %H:%M:%S}  {who:<10}  {event.action:<24}  {subject:<24}  {event.ip_address or '-'}"
