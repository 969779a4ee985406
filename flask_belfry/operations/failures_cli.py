"""The command group `flask failures`."""

from __future__ import annotations

import click

from flask_belfry.core.commands import CommandGroup, as_json_option, echo_json
from flask_belfry.core.presentation import ago
from flask_belfry.db import db
from flask_belfry.operations import bulk
from flask_belfry.operations import failures as service
from flask_belfry.operations.bulk_options import canary_option, echo_begun, pace_option
from flask_belfry.operations.failures import FILTERS, OPEN_ONLY, Verb
from flask_belfry.operations.fields import failure_attempt_fields, failure_fields

failures = CommandGroup("failures", help="Lists groups of failures, changes their state and retries their jobs.")

_COLUMNS = "{:<36}  {:<9} {:>6} {:>6} {:>6} {:>7} {:>10}  {}"
_HEADING = ("ID", "STATE", "1 H", "24 H", "7 D", "FAILED", "LAST SEEN", "JOB AND ERROR")


@failures.command("list")
@click.option("--state", type=click.Choice(FILTERS), default=OPEN_ONLY, show_default=True)
@click.option("--text", help="Text in the job, the error, its message or its frame, or the fingerprint.")
@click.option("--limit", type=click.IntRange(1, 100), default=25, show_default=True)
@click.option("--cursor", help="Continue a list where it stopped.")
@as_json_option
def list_command(as_json: bool, state: str, text: str | None, limit: int, cursor: str | None) -> None:
    """List groups of failures, those that failed last first, with what failed in 1 h, 24 h and 7 d."""
    page = service.list_groups(state=state, text=text, limit=limit, cursor=cursor)
    if page.next_cursor:
        click.echo(f"continue with --cursor {page.next_cursor}", err=True)
    found = failure_fields(page.items)
    if as_json:
        return echo_json(found)
    if found:
        click.echo(_COLUMNS.format(*_HEADING))
    else:
        click.echo("no group of failures matches", err=True)
    for group, fields in zip(page.items, found, strict=True):
        counts = [fields[name] for name in ("failures_1h", "failures_24h", "failures_7d", "failed_jobs")]
        what = f"{group.job_name}: {group.error_type}: {group.message or ''}"
        columns = group.id, group.state, *counts, ago(group.last_seen_at), " ".join(what.split())[:100].rstrip(": ")
        click.echo(_COLUMNS.format(*columns))
    return None


@failures.command("show")
@click.argument("group_id")
@as_json_option
def show_command(group_id: str, as_json: bool) -> None:
    """Show one group of failures with its latest failure."""
    group = service.get_group(group_id)
    attempt = failure_attempt_fields(service.latest_trace(group))
    (fields,) = failure_fields([group])
    if as_json:
        return echo_json({**fields, "attempt": attempt})
    for key, value in fields.items():
        if value is not None:
            click.echo(f"{key:<16} {value}")
    if attempt is not None:
        click.echo(f"{'worker':<16} {attempt['worker']}")
        click.echo(attempt["traceback"] or "")
    return None


@failures.command("see")
@click.argument("group_id")
def see_command(group_id: str) -> None:
    """Mark a group of failures as seen."""
    _change(group_id, Verb.SEE)


@failures.command("ignore")
@click.argument("group_id")
def ignore_command(group_id: str) -> None:
    """Ignore a group of failures, also when it fails again."""
    _change(group_id, Verb.IGNORE)


@failures.command("resolve")
@click.argument("group_id")
def resolve_command(group_id: str) -> None:
    """Resolve a group of failures: when it fails again, it has regressed."""
    _change(group_id, Verb.RESOLVE)


@failures.command("reopen")
@click.argument("group_id")
def reopen_command(group_id: str) -> None:
    """Reopen an ignored or resolved group of failures."""
    _change(group_id, Verb.REOPEN)


@failures.command("retry")
@click.argument("group_id")
@canary_option(bulk.CANARY)
@pace_option(bulk.PER_SECOND)
def retry_command(group_id: str, canary: int, pace: float) -> None:
    """Retry the failed jobs of a group by a bulk operation: some first, then the rest."""
    operation = service.retry(group_id, canary=canary or None, per_second=pace or None)
    db.session.commit()
    echo_begun(operation)


def _change(group_id: str, verb: Verb) -> None:
    group = service.change(group_id, verb)
    db.session.commit()
    click.echo(f"{group.job_name}: {group.error_type} is {group.state}")
