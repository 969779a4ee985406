"""The commands `flask work-items …`."""

from __future__ import annotations

from typing import Any

import click

from app.accounts import get_user, on_behalf_of
from app.work_items import queries, services
from app.work_items.models import Kind, Priority, WorkItem, WorkStatus
from flask_belfry.core.commands import CommandGroup, as_json_option, echo_json
from flask_belfry.db import db
from flask_belfry.db.columns import MAX_INTEGER
from flask_belfry.db.pagination import MAX_LIMIT

work_items = CommandGroup("work-items", help="List epics, stories and tasks, and set their status.")

SHOWN = ("id", "kind", "title", "status", "priority", "due_date", "parent_id", "responsible_id", "reporter_id")


def _choice(enum: Any) -> click.Choice[str]:
    return click.Choice([member.value for member in enum], case_sensitive=False)


@work_items.command("list")
@click.option("--kind", type=_choice(Kind))
@click.option("--status", type=_choice(WorkStatus))
@click.option("--priority", type=_choice(Priority))
@click.option("--text", help="Search in the title and the description, or a number.")
@click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=25, show_default=True)
@as_json_option
def list_(
    kind: str | None, status: str | None, priority: str | None, text: str | None, limit: int, as_json: bool
) -> None:
    """List work items, newest first."""
    filters = queries.Filters(
        kind=Kind(kind) if kind else None,
        status=WorkStatus(status) if status else None,
        priority=Priority(priority) if priority else None,
        text=text,
    )
    items = queries.page_of_all(filters, limit=limit).items
    if as_json:
        return echo_json([_fields(item) for item in items])
    for item in items:
        click.echo(f"{item.id:>6}  {item.kind:<5}  {item.status:<11}  {item.priority:<8}  {item.title}")
    if not items:
        click.echo("no work items match", err=True)
    return None


@work_items.command("set-status")
@click.argument("status", type=_choice(WorkStatus))
@click.argument("ids", type=click.IntRange(1, MAX_INTEGER), nargs=-1, required=True)
@click.option("--as", "login", required=True, help="Username or email address of the acting user.")
def set_status(status: str, ids: tuple[int, ...], login: str) -> None:
    """Set the status of items, all or none. Sends the same mails as a change on a page."""
    user = get_user(login)
    with on_behalf_of(user):
        items = queries.lock_many(user, ids)
        services.change_many(user, items, {"status": WorkStatus(status)})
        db.session.commit()
    click.echo(f"{len(items)} moved to {status}")


def _fields(item: WorkItem) -> dict[str, Any]:
    return {name: getattr(item, name) for name in SHOWN}
