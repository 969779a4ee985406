"""The command group `flask batches`."""

from __future__ import annotations

import click

from flask_belfry.core.commands import CommandGroup, as_json_option, echo_json
from flask_belfry.core.presentation import ago
from flask_belfry.db import db
from flask_belfry.operations import batches as service
from flask_belfry.operations.fields import batches_fields
from flask_belfry.outbox import FINALIZED, JobState

batches = CommandGroup("batches", help="Lists, cancels and retries batches of jobs.")

_COLUMNS = "{:<36}  {:<9} {:>15} {:>7} {:>10}  {}"


@batches.command("list")
@click.option("--open", "is_open", is_flag=True, help="Only those that are not finished.")
@click.option("--limit", type=click.IntRange(1, 100), default=25, show_default=True)
@as_json_option
def list_command(as_json: bool, limit: int, is_open: bool) -> None:
    """List batches, newest first."""
    found = service.list_batches(is_open=is_open or None, limit=limit).items
    if as_json:
        return echo_json(batches_fields(found))
    counts = service.job_counts(found)
    if found:
        click.echo(_COLUMNS.format("ID", "STATE", "ENDED", "FAILED", "AGE", "NAME"))
    else:
        click.echo("no batch matches", err=True)
    for batch in found:
        of_batch = counts[batch.id]
        ended = f"{sum(of_batch[state] for state in FINALIZED)}/{of_batch.total()}"
        failed = of_batch[JobState.FAILED]
        click.echo(
            _COLUMNS.format(
                batch.id, service.state_of(batch), ended, failed, ago(batch.created_at), batch.name
            ).rstrip()
        )
    return None


@batches.command("show")
@click.argument("batch_id")
@as_json_option
def show_command(batch_id: str, as_json: bool) -> None:
    """Show one batch with the number of its jobs in each state."""
    (fields,) = batches_fields([service.get_batch(batch_id)])
    if as_json:
        return echo_json(fields)
    jobs = "  ".join(f"{state} {count}" for state, count in fields.pop("jobs").items())
    for key, value in {**fields, "jobs": jobs}.items():
        if value not in (None, {}, ""):
            click.echo(f"{key:<16} {value}")
    return None


@batches.command("cancel")
@click.argument("batch_id")
def cancel_command(batch_id: str) -> None:
    """Cancel the waiting jobs of a batch, request the running ones to stop, and refuse further jobs."""
    cancelled, stopping = service.cancel_batch(service.get_batch(batch_id))
    db.session.commit()
    click.echo(f"{len(cancelled)} cancelled, {len(stopping)} requested to stop")


@batches.command("retry")
@click.argument("batch_id")
@click.option("--cancelled", is_flag=True, help="The cancelled jobs too.")
def retry_command(batch_id: str, cancelled: bool) -> None:
    """Retry the failed jobs of a batch. It is open again until they have ended."""
    retried = service.retry_batch(service.get_batch(batch_id), cancelled=cancelled)
    db.session.commit()
    click.echo(f"{len(retried)} jobs retried")
