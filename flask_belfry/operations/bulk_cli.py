"""The command group `flask jobs operations`. `flask jobs retry` and `flask jobs cancel` begin bulk operations."""

from __future__ import annotations

import time

import click

from flask_belfry.core.clock import utc_now
from flask_belfry.core.commands import CommandGroup, as_json_option, echo_json
from flask_belfry.core.presentation import ago
from flask_belfry.db import db
from flask_belfry.operations import bulk
from flask_belfry.operations.bulk_options import echo_begun
from flask_belfry.operations.fields import operation_detail_fields, operation_fields
from flask_belfry.operations.models import BulkOperation, BulkState

operations = CommandGroup("operations", help="Lists, stops and undoes bulk operations, which change many jobs.")

_COLUMNS = "{:<36}  {:<9} {:<6} {:>19} {:>9} {:>10}  {}"
# The interval at which `show --follow` queries the database.
POLL_SECONDS = 1.0


@operations.command("list")
@click.option("--limit", type=click.IntRange(1, 100), default=25, show_default=True)
@as_json_option
def list_command(as_json: bool, limit: int) -> None:
    """List bulk operations, newest first."""
    found = bulk.list_operations(limit=limit).items
    if as_json:
        return echo_json([operation_fields(operation) for operation in found])
    if found:
        click.echo(_COLUMNS.format("ID", "STATE", "KIND", "DONE", "CHANGED", "AGE", "JOBS"))
    else:
        click.echo("there are no bulk operations", err=True)
    for operation in found:
        counts = f"{operation.done}/{operation.total}", operation.changed
        columns = operation.id, operation.state, operation.kind, *counts, ago(operation.created_at), operation.query
        click.echo(_COLUMNS.format(*columns).rstrip())
    return None


@operations.command("show")
@click.argument("operation_id")
@click.option("--follow", is_flag=True, help="Print its progress until it has ended.")
@as_json_option
def show_command(operation_id: str, follow: bool, as_json: bool) -> None:
    """Show one bulk operation, with what has become of the jobs that it changed."""
    operation = bulk.get_operation(operation_id)
    if follow:
        operation = _follow(operation)
    fields = operation_detail_fields(operation)
    if as_json:
        return echo_json(fields)
    for key, value in fields.items():
        if value not in (None, ""):
            click.echo(f"{key:<16} {str(value).lower() if isinstance(value, bool) else value}")
    return None


@operations.command("stop")
@click.argument("operation_id")
def stop_command(operation_id: str) -> None:
    """Stop a bulk operation before its next page. What it has changed stays changed."""
    operation = bulk.cancel(operation_id)
    db.session.commit()
    click.echo(f"stopped: {operation.changed} of {operation.total} jobs are changed")


@operations.command("undo")
@click.argument("operation_id")
def undo_command(operation_id: str) -> None:
    """Begin the reverse: cancel what an operation retried and has not started, or retry what it cancelled."""
    reverse = bulk.undo(operation_id)
    db.session.commit()
    echo_begun(reverse)


def _follow(operation: BulkOperation) -> BulkOperation:
    """Print each new progress on stderr until the operation has ended; return it as it is then."""
    id, shown = operation.id, ""
    while True:
        now = f"{operation.state}  {operation.done} of {operation.total}, {operation.changed} changed"
        if now != shown:
            shown = now
            click.echo(f"{utc_now():%H:%M:%S}  {now}", err=True)
        if operation.state is not BulkState.RUNNING:
            return operation
        db.session.rollback()  # on SQLite, an open transaction may keep a writer waiting
        time.sleep(POLL_SECONDS)
        operation = bulk.get_operation(id)
