"""The examination behind `flask doctor`: each part is tested for real, and a finding names the cause and the remedy."""

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

from flask_belfry.core.clock import utc_now
from flask_belfry.core.commands import Command, as_json_option, echo_json
from flask_belfry.core.database_errors import database_problem
from flask_belfry.db import db
from flask_belfry.mail import MailError, check_connection
from flask_belfry.operations import services
from flask_belfry.outbox import Deployment, JobRecord, JobState, WorkerProcess, publisher
from flask_belfry.outbox.deployment import scheduler_passes
from flask_belfry.outbox.errors import ForeignBrokerError
from flask_belfry.outbox.registry import HEAVY_QUEUES, LIGHT_QUEUES, QUEUES

# The parts are examined side by side, so this is the limit of all of them too.
LIMIT_SECONDS = 2.0
RECENT = timedelta(days=1)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
UNFINISHED = "does not finish its passes"
# What an operator looks at when a part gives no answer in time.
REMEDIES = {
    "database": "check that it runs, DATABASE_URL, and what locks or slows it",
    "broker": "check that it runs, and REDIS_URL; jobs wait in the database",
    "smtp": "check that it runs, MAIL_SERVER and MAIL_PORT",
}
ORDER = (
    "settings", "database", "migrations", "broker", "light workers", "heavy workers", "scheduler", "jobs", "smtp",
)  # fmt: skip

Check = Callable[[Flask], str | None]


@dataclass(frozen=True)
class Finding:
    """What was found of one part."""

    part: str
    is_well: bool
    message: str

    def as_dict(self) -> dict[str, object]:
        """As plain JSON."""
        return asdict(self)


class _NotWellError(Exception):
    """The message of a finding."""


@click.command("doctor", cls=Command)
@as_json_option
@with_appcontext
def doctor_command(as_json: bool) -> None:
    """Look at every part: one line each, ok or what is wrong and how to mend it; exit status 1 when something is."""
    findings = examine(app_ctx.app)
    if as_json:
        echo_json([finding.as_dict() for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{'ok ' if finding.is_well else 'BAD'}  {finding.part:<14} {finding.message}")
    if not all(finding.is_well for finding in findings):
        raise SystemExit(1)


def examine(app: Flask) -> list[Finding]:
    """Examines every part, within LIMIT_SECONDS."""
    series = [_Series(app, checks) for checks in _checks(app)]
    deadline = time.monotonic() + LIMIT_SECONDS
    for each in series:
        each.start()
    found: dict[str, Finding] = {}
    for each in series:
        each.join(max(0.0, deadline - time.monotonic()))
        for finding in each.findings():
            if finding.part not in found or found[finding.part].is_well:
                found[finding.part] = finding
    return _without_repetition(found)


class _Series(threading.Thread):
    """Examines parts one after the other; the rest is left out once one fails on which they depend."""

    def __init__(self, app: Flask, checks: Mapping[str, Sequence[Check]]) -> None:
        super().__init__(daemon=True)  # one that gets no answer does not hold up the command's end
        self._app = app
        self._checks = checks
        self._found: list[Finding] = []
        self._current: str | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            with self._app.app_context():
                self._examine()
        except Exception as error:  # noqa: BLE001 - raised again by `findings`, in the thread that asks for them
            self._error = error

    def _examine(self) -> None:
        for part, checks in self._checks.items():
            self._current = part
            for check in checks:
                finding = _look(part, partial(check, self._app))
                self._found += [finding] if finding else []
                if finding and not finding.is_well and part in ("database", "migrations"):
                    self._current = None
                    return
        self._current = None

    def findings(self) -> list[Finding]:
        """What was found; of a part that does not answer, that."""
        if self._error is not None:
            raise self._error
        found, current = list(self._found), self._current
        if not current:
            return found
        # Parts without a remedy of their own read the database.
        remedy = REMEDIES.get(current, REMEDIES["database"])
        return [*found, Finding(current, False, f"no answer within {LIMIT_SECONDS:g} s: {remedy}")]


def _checks(app: Flask) -> list[dict[str, Sequence[Check]]]:
    on_database: dict[str, Sequence[Check]] = {"database": [_database], "migrations": [_migrations]}
    if app.config["JOBS_EAGER"]:
        return [{"settings": [_settings]}, on_database | {"jobs": [_jobs]}, {"smtp": [_smtp]}]
    workers: dict[str, Sequence[Check]] = {
        "light workers": [partial(_workers, queues=LIGHT_QUEUES, command="python cli.py jobs worker")],
        "heavy workers": [partial(_workers, queues=HEAVY_QUEUES, command="python cli.py jobs worker --heavy")],
    }
    return [
        {"settings": [_settings]},
        on_database | workers | {"scheduler": [_scheduler], "jobs": [_jobs], "broker": [_broker_ownership]},
        {"broker": [_broker]},
        {"smtp": [_smtp]},
    ]


def _look(part: str, check: Callable[[], str | None]) -> Finding | None:
    try:
        message = check()
        return Finding(part, True, message) if message else None
    except (_NotWellError, MailError, ForeignBrokerError) as error:
        return Finding(part, False, str(error))
    except DBAPIError as error:
        return Finding(part, False, database_problem(error))
    except SQLAlchemyError as error:
        return Finding(part, False, f"the database does not answer ({type(error).__name__}): check DATABASE_URL")
    except redis.ResponseError as error:
        return Finding(part, False, f"refuses what the processes need of it: {error}")
    except redis.RedisError as error:
        return Finding(part, False, f"{error}: start Redis or Valkey, or check REDIS_URL; jobs wait in the database")


def _without_repetition(found: Mapping[str, Finding]) -> list[Finding]:
    """All findings in one order; what follows from another part's failure does not name the cause again."""
    broker, scheduler = found.get("broker"), found.get("scheduler")
    if broker and scheduler and not broker.is_well and scheduler.message.startswith(UNFINISHED):
        found = {**found, "scheduler": replace(scheduler, message=f"{UNFINISHED} while the broker is not well")}
    return [found[part] for part in ORDER if part in found]


def _settings(app: Flask) -> str:
    # A wrong value stops the start: what is left are names, and values that only a deployment can judge.
    problems = [f"{name} is not a setting (did you mean {near}?)" for name, near in _unknown_settings(app).items()]
    if app.config["APP_ENV"] == "production":
        if not app.config["ADMIN_EMAIL"]:
            problems.append("ADMIN_EMAIL is not set: nobody is notified of new reservations")
        if urlsplit(app.config["PUBLIC_URL"]).hostname in LOOPBACK:
            problems.append(f"PUBLIC_URL is {app.config['PUBLIC_URL']}: links in mails work on this machine only")
    if problems:
        raise _NotWellError("; ".join(problems))
    return f"APP_ENV={app.config['APP_ENV']}"


def _unknown_settings(app: Flask) -> dict[str, str]:
    return app.extensions["unknown_settings"]


def _database(app: Flask) -> str:
    db.session.execute(sa.text("SELECT 1"))
    return db.engine.dialect.name


def _migrations(app: Flask) -> str:
    script = ScriptDirectory(str(Path(app.root_path).parent / "migrations"))
    revisions = set(MigrationContext.configure(db.session.connection()).get_current_heads())
    if not revisions:
        raise _NotWellError("the database is not migrated: run `flask --app wsgi db upgrade`")
    if revisions != set(script.get_heads()):
        raise _NotWellError("the schema is not that of this code: run `flask --app wsgi db upgrade`")
    return "up to date"


def _broker(app: Flask) -> str:
    publisher().probe()
    waiting = {queue: int(publisher().connection.llen(f"rq:queue:{queue}")) for queue in QUEUES}
    return "answers; waiting: " + ", ".join(f"{queue} {count}" for queue, count in waiting.items())


def _broker_ownership(app: Flask) -> None:
    """Raises ForeignBrokerError; what else is wrong with the broker is found beside this."""
    publisher().ownership.learn(db.session())
    try:
        publisher().ownership.check(publisher().connection, every_seconds=0)
    except ForeignBrokerError:
        raise
    except redis.RedisError:
        return


def _workers(app: Flask, queues: Sequence[str], command: str) -> str:
    rows = _fresh(app, WorkerProcess.queues != "")
    counts = {queue: sum(queue in row.queues.split(",") for row in rows) for queue in queues}
    if missing := [queue for queue, count in counts.items() if not count]:
        raise _NotWellError(f"none for {', '.join(missing)}: start `{command}`")
    return ", ".join(f"{queue} {count}" for queue, count in counts.items())


def _scheduler(app: Flask) -> str:
    if not _fresh(app, WorkerProcess.kind == "scheduler"):
        raise _NotWellError("none runs: start `python scheduler.py`; retries and schedules wait")
    if not scheduler_passes(db.session()):
        refusal = db.session.scalar(sa.select(Deployment.scheduler_error))
        raise _NotWellError(f"{UNFINISHED} ({refusal or 'no error is on record'})")
    return "runs"


def _jobs(app: Flask) -> str:
    recent = sa.select(JobRecord.id).where(
        JobRecord.state == JobState.FAILED, JobRecord.finished_at >= utc_now() - RECENT
    )
    rows = recent.limit(services.COUNT_LIMIT).subquery()
    count = db.session.scalar(sa.select(sa.func.count()).select_from(rows)) or 0
    if count:
        jobs = "1 job" if count == 1 else f"{count} jobs"
        raise _NotWellError(f"{jobs} failed within a day: look with `flask jobs list --state failed`, then retry")
    return "none failed within a day"


def _smtp(app: Flask) -> str:
    if not app.config["MAIL_ENABLED"]:
        return "not used: MAIL_ENABLED is false, mails are recorded as suppressed"
    return check_connection()


def _fresh(app: Flask, *conditions: sa.ColumnElement[bool]) -> list[WorkerProcess]:
    is_alive = WorkerProcess.is_alive(app.config["RESCUE_AFTER_SECONDS"])
    return list(db.session.scalars(sa.select(WorkerProcess).where(is_alive, *conditions)))
