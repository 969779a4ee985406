"""The command group `flask jobs`."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from flask import current_app

from flask_belfry import outbox
from flask_belfry.core.clock import utc_now
from flask_belfry.core.commands import MAX_DAYS, CommandGroup, as_json_option, echo_json
from flask_belfry.core.errors import AppError
from flask_belfry.core.presentation import ago, duration
from flask_belfry.db import db
from flask_belfry.operations import bulk, services
from flask_belfry.operations.bulk_options import canary_option, echo_begun, pace_option
from flask_belfry.operations.fields import attempt_fields, job_fields, progress_fields
from flask_belfry.operations.models import BulkKind
from flask_belfry.operations.search import parse
from flask_belfry.outbox import LIVE, JobRecord, JobState
from flask_belfry.outbox.registry import QUEUES, definitions
from flask_belfry.outbox.relay import relay
from flask_belfry.statistics import reading

jobs = CommandGroup("jobs", help="Lists, enqueues, retries and cancels jobs; starts workers.")
jobs.add_lazy("operations", "flask_belfry.operations.bulk_cli:operations")
jobs.add_lazy("watch", "flask_belfry.operations.watch_cli:watch_command")
jobs.add_lazy("stop-worker", "flask_belfry.operations.workers_cli:stop_worker_command")
jobs.add_lazy("worker", "flask_belfry.operations.worker_cli:worker_command")
jobs.add_lazy("workers", "flask_belfry.operations.workers_cli:workers_command")

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_RETRYABLE = (JobState.FAILED, JobState.CANCELLED)
_COLUMNS = "{:<36}  {:<10} {:>5}  {:>10}  {:<28} {}"
_FIGURES = "{:<4} {:<32} {:>9} {:>7} {:>9} {:>8}  {:<26} {}"
_FIGURES_HEADING = ("NAME", "COMPLETED", "FAILED", "CANCELLED", "ATTEMPTS", "WAITING 50/95/99 %", "RUNNING 50/95/99 %")
# The interval at which `show --follow` queries the database.
POLL_SECONDS = 1.0


class TimeOrAge(click.ParamType):
    """A time in ISO 8601, in UTC unless it has an offset, or an age such as 30m, 2h, 7d."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time in UTC."""
        try:
            if age := re.fullmatch(r"(\d+)([smhd])", value):
                return utc_now() - timedelta(**{_UNITS[age[2]]: int(age[1])})
            parsed = datetime.fromisoformat(value)
            return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        except OverflowError:
            self.fail(f"must be in the years 1 to 9999, not {value!r}", param, ctx)
        except ValueError:
            self.fail(f"must be ISO 8601 or an age such as 30m, 2h, 7d, not {value!r}", param, ctx)


_filter = click.option(
    "--filter",
    "query",
    is_flag=False,
    flag_value="",
    metavar="[QUERY]",
    help="All jobs that match this search, such as 'name:mail.* since:2h', and the options below.",
)
_state = click.option("--state", type=click.Choice([state.value for state in JobState]))
_name = click.option("--name", help="Only this job name.")
_queue = click.option("--queue", type=click.Choice(QUEUES))
_since = click.option("--since", type=TimeOrAge(), help="Created since this time (ISO 8601) or age (30m, 2h, 7d).")


@jobs.command("list")
@click.argument("query", required=False, default="")
@_state
@_name
@_queue
@_since
@click.option("--limit", type=click.IntRange(1, 100), default=25, show_default=True)
@click.option("--cursor", help="Continue a list where it stopped.")
@as_json_option
def list_command(query: str, as_json: bool, limit: int, cursor: str | None, **filters: Any) -> None:
    """List jobs, newest first. QUERY is a search, such as 'state:failed name:mail.* since:2h "text"'."""
    page = services.list_jobs(parse(query, filters, now=utc_now()), limit=limit, cursor=cursor)
    if page.searched_to:
        click.echo(f"searched back to {page.searched_to:%Y-%m-%d %H:%M:%S} UTC", err=True)
    if page.next_cursor:
        click.echo(f"continue with --cursor {page.next_cursor}", err=True)
    if as_json:
        return echo_json([job_fields(record) for record in page.items])
    if page.items:
        click.echo(_COLUMNS.format("ID", "STATE", "TRY", "AGE", "NAME", "SUBJECT"))
    else:
        click.echo("no job matches", err=True)
    for record in page.items:
        click.echo(_line(record))
    return None


@jobs.command("names")
@as_json_option
def names_command(as_json: bool) -> None:
    """List the names of the jobs that can be enqueued."""
    names = [
        {
            "name": found.name,
            "arguments": sorted(found.parameters),
            "queue": found.queue,
            "max_attempts": found.policy().max_attempts,
        }
        for found in definitions()
    ]
    if as_json:
        return echo_json(names)
    for row in names:
        arguments = ", ".join(row["arguments"])
        click.echo(f"{row['name']}({arguments})  queue {row['queue']}, at most {row['max_attempts']} attempts")
    return None


@jobs.command("show")
@click.argument("job_id")
@click.option("--follow", is_flag=True, help="Print each new state, until the job is finalized.")
@as_json_option
def show_command(job_id: str, follow: bool, as_json: bool) -> None:
    """Show one job with its attempts."""
    record = _get(job_id)
    if follow:
        record = _follow(record)
    attempts = [attempt_fields(attempt) for attempt in services.attempts_of(record)]
    lines = [line for _, line in _log_lines(record)]
    if as_json:
        return echo_json(job_fields(record) | {"attempts": attempts, "log": lines})
    for key, value in job_fields(record).items():
        if value not in (None, {}, []) and value is not False:
            click.echo(f"{key:<16} {value if isinstance(value, str) else json.dumps(value)}")
    for attempt in attempts:
        error = f": {attempt['error_type']}: {attempt['error']}" if attempt["error_type"] else ""
        click.echo(f"attempt {attempt['number']:<8} {attempt['outcome']}{error}")
    for line in lines:
        click.echo(f"log              {line}")
    return None


@jobs.command("enqueue")
@click.argument("name")
@click.option("--args", "args_text", default="{}", help="The arguments, as a JSON object.")
def enqueue_command(name: str, args_text: str) -> None:
    """Enqueue job NAME and print its id."""
    try:
        args = json.loads(args_text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"must be a JSON object: {error}", param_hint="--args") from error
    if not isinstance(args, dict):
        raise click.BadParameter(f"must be a JSON object, not {args_text}", param_hint="--args")
    (job_id,) = outbox.enqueue_many(name, [outbox.JobRequest(args)])
    db.session.commit()
    click.echo(job_id)


@jobs.command("retry")
@click.argument("ids", nargs=-1)
@_filter
@click.option(
    "--state",
    type=click.Choice([state.value for state in _RETRYABLE]),
    help="With --filter: the state of the jobs (default: failed).",
)
@_name
@_queue
@_since
@canary_option()
@pace_option()
def retry_command(
    ids: tuple[str, ...],
    query: str | None,
    state: str | None,
    canary: int | None,
    pace: float | None,
    **filters: Any,
) -> None:
    """Retry failed and cancelled jobs, given by their ids or by --filter. More than 1,000, and with --canary or --pace,
    a bulk operation retries them.
    """
    if query is None and (state or canary or pace):
        raise click.UsageError("--state, --canary and --pace require --filter")
    numbers = {"canary": canary or None, "per_second": pace or None}
    chosen = _chosen(ids, query, filters | {"state": state}, BulkKind.RETRY, **numbers)
    if chosen is None:
        return
    retried = services.retry_jobs(chosen)
    db.session.commit()
    click.echo(f"{len(retried)} of {len(chosen)} jobs retried")
    if len(retried) < len(chosen) and query is None:
        raise click.ClickException("only failed and cancelled jobs can be retried")


@jobs.command("cancel")
@click.argument("ids", nargs=-1)
@_filter
@_name
@_queue
@_since
@pace_option()
def cancel_command(ids: tuple[str, ...], query: str | None, pace: float | None, **filters: Any) -> None:
    """Cancel waiting jobs and request running ones to stop. More than 1,000, and with --pace, a bulk operation cancels
    them.
    """
    if query is None and pace:
        raise click.UsageError("--pace requires --filter")
    chosen = _chosen(ids, query, filters, BulkKind.CANCEL, per_second=pace or None)
    if chosen is None:
        return
    cancelled, stopping = services.cancel_jobs(chosen)
    db.session.commit()
    click.echo(f"{len(cancelled)} cancelled, {len(stopping)} requested to stop")
    if len(cancelled) + len(stopping) < len(chosen) and query is None:
        raise click.ClickException("the others had already finished")


@jobs.command("run")
@click.argument("ids", nargs=-1, required=True)
def run_command(ids: tuple[str, ...]) -> None:
    """Run jobs now that wait for their time or for their next attempt."""
    started = services.run_jobs_now([_get(id).id for id in ids])
    db.session.commit()
    click.echo(f"{len(started)} of {len(ids)} jobs enqueued to run now")
    if len(started) < len(ids):
        raise click.ClickException(services.NOT_TIMED)


@jobs.command("stats")
@as_json_option
def stats_command(as_json: bool) -> None:
    """Print the number of jobs in each state, counted up to 10,000, and what ended in the last hour, day and week."""
    counts = services.counts_by_state()
    figures = {label: reading.job_figures(utc_now() - span) for label, span in reading.SPANS.items()}
    if as_json:
        return echo_json(counts | {label: [asdict(each) for each in found] for label, found in figures.items()})
    for state, count in counts.items():
        click.echo(f"{state:<10} {count}")
    for label, found in figures.items():
        click.echo(_FIGURES.format(label, *_FIGURES_HEADING))
        for each in found:
            wait = "/".join(duration(seconds) or "-" for seconds in (each.wait_p50, each.wait_p95, each.wait_p99))
            run = "/".join(duration(seconds) or "-" for seconds in (each.run_p50, each.run_p95, each.run_p99))
            counted = each.completed, each.failed, each.cancelled, each.attempts
            click.echo(_FIGURES.format("", each.name, *counted, wait, run))
    return None


@jobs.command("prune")
@click.option(
    "--older-than",
    "days",
    type=click.IntRange(0, MAX_DAYS),
    help="Days since the end (default: JOBS_KEEP_DAYS).",
)
def prune_command(days: int | None) -> None:
    """Delete finished jobs; failed ones are kept for at least JOBS_KEEP_FAILED_DAYS."""
    settings = current_app.config
    deleted = outbox.prune_records(
        db.session(),
        older_than=timedelta(days=settings["JOBS_KEEP_DAYS"] if days is None else days),
        failed_older_than=timedelta(days=max(settings["JOBS_KEEP_FAILED_DAYS"], days or 0)),
    )
    click.echo(f"{deleted} jobs deleted")


@jobs.command("relay")
def relay_command() -> None:
    """Publish the committed jobs that did not reach the broker."""
    report = relay(outbox.publisher())
    click.echo(f"{report.pushed} published, {report.marked} had already arrived")


@jobs.command("take-broker")
def take_broker_command() -> None:
    """Make this deployment the owner of its Redis database, whichever deployment owns it now."""
    broker = outbox.publisher()
    broker.ownership.learn(db.session())
    db.session.rollback()
    broker.ownership.take(broker.connection)
    click.echo(f"the Redis database belongs to deployment {broker.ownership.deployment_id}")


def _progress_text(progress: dict[str, Any] | None) -> str:
    if progress is None:
        return ""
    total = f" of {progress['total']}" if progress["total"] else ""
    return f"{progress['done']}{total} {progress['text'] or ''}".rstrip()


def _log_lines(record: JobRecord) -> Iterator[tuple[tuple[int, int], str]]:
    """Return the log lines of a job, oldest first, each with its claim and its number in it."""
    for log in reversed(services.logs_of(record)):
        for line in log.lines:
            values = "".join(f" {name}={value}" for name, value in line["values"].items())
            yield (log.claim, line["number"]), f"{line['time'][11:23]} {line['level']} {line['event']}{values}"


def _line(record: JobRecord) -> str:
    subject = f"{record.subject_type}/{record.subject_id}" if record.subject_type else ""
    attempt = f"{record.attempt}/{record.max_attempts}"
    return _COLUMNS.format(record.id, record.state, attempt, ago(record.created_at), record.name, subject).rstrip()


def _follow(record: JobRecord) -> JobRecord:
    """Print each new state, progress and log line on stderr until the job is finalized; return its record."""
    shown: tuple[str, str] | None = None
    newest = (0, 0)
    while True:
        progress = progress_fields(record)
        if (now := (record.state.value, _progress_text(progress))) != shown:
            shown = now
            click.echo(f"{utc_now():%H:%M:%S}  {'  '.join(now).rstrip()}", err=True)
        for position, line in _log_lines(record):
            if position > newest:
                newest = position
                click.echo(line, err=True)
        if record.state not in LIVE:
            return record
        id = record.id
        db.session.rollback()  # on SQLite, an open transaction may keep a writer waiting
        time.sleep(POLL_SECONDS)
        record = _get(id)


def _get(job_id: str) -> JobRecord:
    try:
        return services.get_job(job_id)
    except AppError as error:
        raise click.ClickException(f"no job has the id {job_id!r}") from error


def _chosen(
    ids: tuple[str, ...], query: str | None, filters: dict[str, Any], kind: BulkKind, **numbers: Any
) -> list[str] | None:
    """Return the ids of the jobs to change; None when a bulk operation that has begun changes them."""
    if bool(ids) == (query is not None):
        raise click.UsageError("give either ids or --filter")
    if query is None:
        return [_get(id).id for id in ids]
    search = parse(query, filters, now=utc_now())
    found = bulk.begin_or_find(kind, search, **numbers)
    if isinstance(found, list):
        return found
    db.session.commit()
    echo_begun(found)
    return None
