"""`flask doctor`: checks each part by using it; a finding names the cause and the remedy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import click
import redis
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask
from flask.cli import with_appcontext
from flask.globals import app_ctx
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from flask_belfry.changes.host import CheckError, current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.commands import Command, as_json_option, echo_json
from flask_belfry.core.database_errors import database_problem
from flask_belfry.db import db
from flask_belfry.mail import MailError, check_connection, check_dkim, check_dmarc, check_spf, held_domains
from flask_belfry.operations import periodic, services
from flask_belfry.outbox import Deployment, JobRecord, JobState, WorkerProcess, publisher
from flask_belfry.outbox.deployment import scheduler_passes
from flask_belfry.outbox.errors import ForeignBrokerError
from flask_belfry.outbox.pauses import active_pauses
from flask_belfry.outbox.registry import HEAVY_QUEUES, LIGHT_QUEUES, QUEUES
from flask_belfry.scheduler.schedule import CUSTOM_PREFIX

# The limit for all parts: they are checked concurrently.
LIMIT_SECONDS = 2.0
RECENT = timedelta(days=1)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
UNFINISHED_PASSES = "does not finish its passes"
# What to check when a part does not respond in time.
REMEDIES = {
    "database": "check that it is running, DATABASE_URL, and for locks and load",
    "broker": "check that it is running, and REDIS_URL; jobs wait in the database",
    "smtp": "check that it is running, MAIL_SERVER and MAIL_PORT",
}
REMEDY_OF_OTHERS = "check the network and its settings"
ORDER = (
    "settings", "database", "migrations", "broker", "light workers", "heavy workers", "scheduler", "schedule", "jobs",
    "held domains", "smtp", "spf", "dkim", "dmarc",
)  # fmt: skip

Check = Callable[[Flask], str | None]


@dataclass(frozen=True)
class Finding:
    """The result of checking one part."""

    part: str
    is_ok: bool
    message: str


def check_all(app: Flask) -> list[Finding]:
    """Check every part, within LIMIT_SECONDS."""
    series = [_Series(app, checks) for checks in _checks(app)]
    deadline = time.monotonic() + LIMIT_SECONDS
    for each in series:
        each.start()
    found: dict[str, Finding] = {}
    for each in series:
        each.join(max(0.0, deadline - time.monotonic()))
        for finding in each.findings():
            if finding.part not in found or found[finding.part].is_ok:
                found[finding.part] = finding
    return _without_repetition(found)


class _Series(threading.Thread):
    """Checks parts one after the other; the rest is skipped after a failure of the database or its schema."""

    def __init__(self, app: Flask, checks: Mapping[str, Sequence[Check]]) -> None:
        super().__init__(daemon=True)  # a check that hangs must not delay the exit of the command
        self._app = app
        self._checks = checks
        self._found: list[Finding] = []
        self._current: str | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            with self._app.app_context():
                self._check()
        except Exception as error:  # noqa: BLE001 - raised by `findings`, in the caller's thread
            self._error = error

    def _check(self) -> None:
        for part, checks in self._checks.items():
            self._current = part
            for check in checks:
                finding = _run_check(part, partial(check, self._app))
                self._found += [finding] if finding else []
                if finding and not finding.is_ok and part in ("database", "migrations"):
                    self._current = None
                    return
        self._current = None

    def findings(self) -> list[Finding]:
        """Return the findings, with a failure for the part that has not responded."""
        if self._error is not None:
            raise self._error
        found, current = list(self._found), self._current
        if not current:
            return found
        # The parts that REMEDIES does not list read the database, or are the application's.
        remedy = REMEDIES.get(current, REMEDIES["database"] if current in ORDER else REMEDY_OF_OTHERS)
        return [*found, Finding(current, False, f"no response within {LIMIT_SECONDS:g} s: {remedy}")]


@click.command("doctor", cls=Command)
@as_json_option
@with_appcontext
def doctor_command(as_json: bool) -> None:
    """Check every part. Print one line for each: ok, or the cause and the remedy. Exit status 1 if a check fails."""
    findings = check_all(app_ctx.app)
    if as_json:
        echo_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{'ok ' if finding.is_ok else 'BAD'}  {finding.part:<14} {finding.message}")
    if not all(finding.is_ok for finding in findings):
        raise SystemExit(1)


def _checks(app: Flask) -> list[dict[str, Sequence[Check]]]:
    of_host: list[dict[str, Sequence[Check]]] = [{part: [check]} for part, check in current_host().checks().items()]
    on_database: dict[str, Sequence[Check]] = {"database": [_database], "migrations": [_migrations]}
    mail: list[dict[str, Sequence[Check]]] = [
        {"smtp": [_smtp]},
        {"spf": [_spf]},
        {"dkim": [_dkim]},
        {"dmarc": [_dmarc]},
    ]
    on_rows: dict[str, Sequence[Check]] = {
        "schedule": [_schedule],
        "jobs": [_jobs],
        "held domains": [_held_domains],
    }
    if app.config["JOBS_EAGER"]:
        return [{"settings": [_settings]}, on_database | on_rows, *mail, *of_host]
    workers: dict[str, Sequence[Check]] = {
        "light workers": [partial(_workers, queues=LIGHT_QUEUES, command="python cli.py jobs worker")],
        "heavy workers": [partial(_workers, queues=HEAVY_QUEUES, command="python cli.py jobs worker --heavy")],
    }
    return [
        {"settings": [_settings]},
        on_database | workers | {"scheduler": [_scheduler]} | on_rows | {"broker": [_broker_ownership]},
        {"broker": [_broker]},
        *mail,
        *of_host,
    ]


def _run_check(part: str, check: Callable[[], str | None]) -> Finding | None:
    try:
        message = check()
        return Finding(part, True, message) if message else None
    except (CheckError, MailError, ForeignBrokerError) as error:
        return Finding(part, False, str(error))
    except DBAPIError as error:
        return Finding(part, False, database_problem(error))
    except SQLAlchemyError as error:
        return Finding(part, False, f"the database is unavailable ({type(error).__name__}): check DATABASE_URL")
    except redis.ResponseError as error:
        return Finding(part, False, f"refuses a command that Belfry needs: {error}")
    except redis.RedisError as error:
        return Finding(part, False, f"{error}: start Redis or Valkey, or check REDIS_URL; jobs wait in the database")


def _without_repetition(found: Mapping[str, Finding]) -> list[Finding]:
    """Return all findings in one order; a failure that follows from the broker's does not repeat its cause."""
    broker, scheduler = found.get("broker"), found.get("scheduler")
    if broker and scheduler and not broker.is_ok and scheduler.message.startswith(UNFINISHED_PASSES):
        found = {
            **found,
            "scheduler": replace(scheduler, message=f"{UNFINISHED_PASSES}: the broker is unavailable"),
        }
    return [found[part] for part in dict.fromkeys((*ORDER, *found)) if part in found]


def _settings(app: Flask) -> str:
    # Invalid values stop the process at start. Left are unknown names, and values that are wrong in production only.
    unknown: dict[str, str] = app.extensions["unknown_settings"]
    problems = [f"{name} is not a setting (did you mean {near}?)" for name, near in unknown.items()]
    if app.config["APP_ENV"] == "production":
        if not app.config["ADMIN_EMAIL"]:
            problems.append("ADMIN_EMAIL is not set: no one is notified of new reservations")
        if urlsplit(app.config["PUBLIC_URL"]).hostname in LOOPBACK:
            problems.append(f"PUBLIC_URL is {app.config['PUBLIC_URL']}: links in mails work only on this machine")
    if problems:
        raise CheckError("; ".join(problems))
    return f"APP_ENV={app.config['APP_ENV']}"


def _database(app: Flask) -> str:
    db.session.execute(sa.text("SELECT 1"))
    return db.engine.dialect.name


def _migrations(app: Flask) -> str:
    script = ScriptDirectory(str(Path(app.root_path).parent / "migrations"))
    revisions = set(MigrationContext.configure(db.session.connection()).get_current_heads())
    if not revisions:
        raise CheckError("the database is not migrated: run `flask --app wsgi db upgrade`")
    if revisions != set(script.get_heads()):
        raise CheckError("the schema does not match this version: run `flask --app wsgi db upgrade`")
    return "up to date"


def _broker(app: Flask) -> str:
    publisher().probe()
    waiting = {queue: int(publisher().connection.llen(f"rq:queue:{queue}")) for queue in QUEUES}
    return "available; ids in its queues: " + ", ".join(f"{queue} {count}" for queue, count in waiting.items())


def _broker_ownership(app: Flask) -> None:
    """Raise ForeignBrokerError if another deployment owns the broker. `_broker` reports all other failures."""
    publisher().ownership.learn(db.session())
    try:
        publisher().ownership.check(publisher().connection, every_seconds=0)
    except ForeignBrokerError:
        raise
    except redis.RedisError:
        return


def _workers(app: Flask, queues: Sequence[str], command: str) -> str:
    rows = _alive(app, WorkerProcess.queues != "")
    counts = {queue: sum(queue in row.queues.split(",") for row in rows) for queue in queues}
    if missing := [queue for queue, count in counts.items() if not count]:
        raise CheckError(f"none for {', '.join(missing)}: start `{command}`")
    return ", ".join(f"{queue} {count}" for queue, count in counts.items())


def _scheduler(app: Flask) -> str:
    if not _alive(app, WorkerProcess.kind == "scheduler"):
        raise CheckError("no scheduler is running: start `python scheduler.py`; retries and periodic jobs wait")
    if not scheduler_passes(db.session()):
        error = db.session.scalar(sa.select(Deployment.scheduler_error))
        raise CheckError(f"{UNFINISHED_PASSES} ({error or 'no error is recorded'})")
    return "running"


def _schedule(app: Flask) -> str:
    entries = periodic.entries()
    problems = [f"{entry.name} does not run: {problem}" for entry in entries if (problem := entry.problem())]
    if problems:
        raise CheckError(f"{'; '.join(problems)} Edit it at /schedule, or `flask schedule delete` it")
    custom = sum(entry.name.startswith(CUSTOM_PREFIX) for entry in entries)
    return f"{len(entries) - custom} periodic jobs of the code, {custom} made by users"


def _jobs(app: Flask) -> str:
    recent = sa.select(JobRecord.id).where(
        JobRecord.state == JobState.FAILED, JobRecord.finished_at >= utc_now() - RECENT
    )
    rows = recent.limit(services.COUNT_LIMIT).subquery()
    count = db.session.scalar(sa.select(sa.func.count()).select_from(rows)) or 0
    if count:
        jobs = "1 job" if count == 1 else f"{count} jobs"
        raise CheckError(f"{jobs} failed in the last day: see `flask jobs list --state failed`, then retry them")
    paused = ", ".join(f"{pause.kind.value} {pause.name}" for pause in active_pauses(db.session()))
    return "none failed in the last day" + (f"; paused: {paused} (see `flask queues list`)" if paused else "")


def _held_domains(app: Flask) -> str:
    holds = held_domains()
    if not holds:
        return "none"
    waiting = [f"{hold.domain} until {hold.held_until:%Y-%m-%d %H:%M} UTC: {hold.last_reply}" for hold in holds]
    raise CheckError(f"mail waits to {'; '.join(waiting)} (see `flask mail holds`)")


def _smtp(app: Flask) -> str:
    if not app.config["MAIL_ENABLED"]:
        return "disabled: MAIL_ENABLED is false, mails are recorded as suppressed"
    return check_connection()


def _spf(app: Flask) -> str | None:
    return check_spf() if app.config["MAIL_ENABLED"] else None


def _dkim(app: Flask) -> str | None:
    return check_dkim() if app.config["MAIL_ENABLED"] else None


def _dmarc(app: Flask) -> str | None:
    return check_dmarc() if app.config["MAIL_ENABLED"] else None


def _alive(app: Flask, *conditions: sa.ColumnElement[bool]) -> list[WorkerProcess]:
    is_alive = WorkerProcess.is_alive(app.config["RESCUE_AFTER_SECONDS"])
    return list(db.session.scalars(sa.select(WorkerProcess).where(is_alive, *conditions)))
