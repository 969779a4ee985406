"""Commands for operators: the group `flask jobs`, and `flask doctor`."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import redis
from flask import current_app
from flask.cli import with_appcontext

from app import outbox
from app.columns import utc_now
from app.commands import CommandGroup
from app.errors import AppError
from app.extensions import db
from app.monitoring import doctor as examination
from app.monitoring import services
from app.monitoring.services import JobFilters
from app.outbox import JobRecord, JobState

jobs = CommandGroup("jobs", help="Jobs: look at them, ask for one, steer them.")

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Moment(click.ParamType):
    """A moment, as ISO 8601 (UTC unless it says) or as an age such as 30m, 2h, 7d."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The aware moment that `value` names."""
        if age := re.fullmatch(r"(\d+)([smhd])", value):
            return utc_now() - timedelta(**{_UNITS[age[2]]: int(age[1])})
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"takes ISO 8601 or an age such as 30m, 2h, 7d, not {value!r}", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_state = click.option("--state", type=click.Choice([state.value for state in JobState]))
_name = click.option("--name", help="Only this job name.")
_queue = click.option("--queue", type=click.Choice(outbox.QUEUES))
_since = click.option("--since", type=Moment(), help="Created since: ISO 8601, or 30m, 2h, 7d ago.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@jobs.command("list")
@_state
@_name
@_queue
@_since
@click.option("--limit", type=click.IntRange(1, 100), default=25, show_default=True)
@_as_json
def list_command(as_json: bool, limit: int, **filters: Any) -> None:
    """The newest jobs."""
    page = services.list_jobs(_filters(**filters), limit=limit)
    if as_json:
        click.echo(json.dumps([described(record) for record in page.items], indent=2))
        return
    for record in page.items:
        subject = f"{record.subject_type}/{record.subject_id}" if record.subject_type else ""
        attempt = f"{record.attempt}/{record.max_attempts}"
        click.echo(f"{record.id}  {record.state.value:<10} {attempt:>5}  {record.name:<36} {subject}")
    if not page.items:
        click.echo("no job matches", err=True)


@jobs.command("names")
def names_command() -> None:
    """Every job name that can be enqueued."""
    for spec in outbox.catalogue():
        arguments = ", ".join(sorted(spec.parameters))
        click.echo(f"{spec.name}({arguments})  queue {spec.queue}, at most {spec.max_attempts} attempts")


@jobs.command("show")
@click.argument("job_id")
@_as_json
def show_command(job_id: str, as_json: bool) -> None:
    """One job with its attempts."""
    record = _get(job_id)
    attempts = [_attempt(attempt) for attempt in services.attempts_of(record)]
    if as_json:
        click.echo(json.dumps(described(record) | {"attempts": attempts}, indent=2))
        return
    for key, value in described(record).items():
        if value not in (None, {}):
            click.echo(f"{key:<16} {value if isinstance(value, str) else json.dumps(value)}")
    for attempt in attempts:
        error = f": {attempt['error_type']}: {attempt['error']}" if attempt["error_type"] else ""
        click.echo(f"attempt {attempt['number']:<8} {attempt['outcome']}{error}")


@jobs.command("enqueue")
@click.argument("name")
@click.option("--args", "args_text", default="{}", help="The arguments, as a JSON object.")
def enqueue_command(name: str, args_text: str) -> None:
    """Ask for job NAME; prints its id."""
    try:
        args = json.loads(args_text)
    except ValueError as error:
        raise click.BadParameter(f"takes a JSON object: {error}", param_hint="--args") from error
    if not isinstance(args, dict):
        raise click.BadParameter(f"takes a JSON object, not {args_text}", param_hint="--args")
    (job_id,) = outbox.enqueue_many(name, [outbox.JobRequest(args)])
    db.session.commit()
    click.echo(job_id)


@jobs.command("retry")
@click.argument("ids", nargs=-1)
@click.option("--filter", "by_filter", is_flag=True, help="All failed and cancelled jobs that meet the options below.")
@_name
@_queue
@_since
def retry_command(ids: tuple[str, ...], by_filter: bool, **filters: Any) -> None:
    """Run failed and cancelled jobs again, given by id or by a filter."""
    chosen = _chosen(ids, by_filter, filters, [JobState.FAILED, JobState.CANCELLED])
    retried = services.retry_jobs(chosen)
    db.session.commit()
    click.echo(f"{len(retried)} of {len(chosen)} jobs run again")
    if len(retried) < len(chosen) and not by_filter:
        raise click.ClickException("the others have not ended in failed or cancelled")


@jobs.command("cancel")
@click.argument("ids", nargs=-1)
@click.option("--filter", "by_filter", is_flag=True, help="All live jobs that meet the options below.")
@_name
@_queue
@_since
def cancel_command(ids: tuple[str, ...], by_filter: bool, **filters: Any) -> None:
    """Cancel jobs that wait, and ask those that run to stop."""
    chosen = _chosen(ids, by_filter, filters, sorted(outbox.LIVE))
    cancelled, asked = services.cancel_jobs(chosen)
    db.session.commit()
    click.echo(f"{len(cancelled)} cancelled, {len(asked)} asked to stop")
    if len(cancelled) + len(asked) < len(chosen) and not by_filter:
        raise click.ClickException("the others had ended already")


@jobs.command("stats")
@_as_json
def stats_command(as_json: bool) -> None:
    """How many jobs are in each state (counted up to 10,000)."""
    counts = services.counts_by_state()
    if as_json:
        click.echo(json.dumps(counts, indent=2))
        return
    for state, count in counts.items():
        click.echo(f"{state:<10} {count}")


@jobs.command("prune")
@click.option("--older-than", "days", type=click.IntRange(0), help="Days since the end (JOBS_KEEP_DAYS).")
def prune_command(days: int | None) -> None:
    """Delete ended jobs; failed ones only past JOBS_KEEP_FAILED_DAYS."""
    settings = current_app.config
    deleted = outbox.prune_records(
        db.session(),
        older_than=timedelta(days=settings["JOBS_KEEP_DAYS"] if days is None else days),
        failed_older_than=timedelta(days=max(settings["JOBS_KEEP_FAILED_DAYS"], days or 0)),
    )
    db.session.commit()
    click.echo(f"{deleted} jobs deleted")


@jobs.command("relay")
def relay_command() -> None:
    """Publish what was committed and never arrived, now."""
    try:
        report = outbox.relay(outbox.publisher())
    except redis.RedisError as error:
        raise click.ClickException(f"the broker does not answer: {error}") from error
    click.echo(f"{report.pushed} pushed, {report.marked} had arrived")


@jobs.command("take-broker")
def take_broker_command() -> None:
    """Make this deployment the owner of its Redis database, whichever deployment owns it now."""
    broker = outbox.publisher()
    broker.ownership.learn(db.session())
    db.session.rollback()
    try:
        broker.ownership.take(broker.connection)
    except redis.RedisError as error:
        raise click.ClickException(f"the broker does not answer: {error}") from error
    click.echo(f"the Redis database belongs to deployment {broker.ownership.deployment_id}")


@click.command("doctor")
@_as_json
@with_appcontext
def doctor_command(as_json: bool) -> None:
    """Look at every part: one line each, ok or what is wrong and how to mend it; exit status 1 when something is."""
    findings = examination.examine(current_app)
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(f"{'ok ' if finding.is_well else 'BAD'}  {finding.part:<14} {finding.message}")
    if not all(finding.is_well for finding in findings):
        raise SystemExit(1)


def described(record: JobRecord) -> dict[str, Any]:
    """A record as plain JSON."""
    return {
        "id": record.id,
        "name": record.name,
        "queue": record.queue,
        "state": record.state.value,
        "args": record.args,
        "attempt": record.attempt,
        "max_attempts": record.max_attempts,
        "subject": f"{record.subject_type}/{record.subject_id}" if record.subject_type else None,
        "user_id": record.user_id,
        "request_id": record.request_id,
        "created_at": _iso(record.created_at),
        "scheduled_at": _iso(record.scheduled_at),
        "enqueued_at": _iso(record.enqueued_at),
        "started_at": _iso(record.started_at),
        "finished_at": _iso(record.finished_at),
        "worker": record.worker,
        "result": record.result,
        "error_type": record.error_type,
        "error": record.error_message,
    }


def _attempt(attempt: services.Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "outcome": attempt.outcome,
        "worker": attempt.worker,
        "host": attempt.host,
        "started_at": _iso(attempt.started_at),
        "finished_at": _iso(attempt.finished_at),
        "error_type": attempt.error_type,
        "error": attempt.error_message,
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _filters(
    state: str | None = None, name: str | None = None, queue: str | None = None, since: datetime | None = None
) -> JobFilters:
    return JobFilters(state=JobState(state) if state else None, name=name, queue=queue, since=since)


def _get(job_id: str) -> JobRecord:
    try:
        return services.get_job(job_id)
    except AppError as error:
        raise click.ClickException(f"no job has the id {job_id!r}") from error


def _chosen(ids: tuple[str, ...], by_filter: bool, filters: dict[str, Any], states: list[JobState]) -> list[str]:
    if bool(ids) == by_filter:
        raise click.UsageError("give ids, or --filter with options, one of the two")
    if by_filter:
        return services.matching_ids(_filters(**filters), states)
    return [_get(id).id for id in ids]
