"""Checks each part by using it. `flask doctor` and the overview of operations show the same problems.

Each check runs in a thread of its own with a limit of its own: a part that does not respond hides no other.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import urlencode, urlsplit

import redis
import sqlalchemy as sa
import structlog
from flask import Flask, current_app
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from flask_belfry.changes.host import CheckError, current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.database_errors import database_problem
from flask_belfry.db import db
from flask_belfry.db.columns import database_now
from flask_belfry.db.tenancy import current_scope
from flask_belfry.mail import MailError, check_connection, check_dkim, check_dmarc, check_spf, held_domains
from flask_belfry.operations import periodic, services
from flask_belfry.outbox import Deployment, JobRecord, JobState, WorkerProcess, publisher
from flask_belfry.outbox.deployment import scheduler_passes
from flask_belfry.outbox.errors import ForeignBrokerError
from flask_belfry.outbox.pauses import active_pauses
from flask_belfry.outbox.registry import HEAVY_QUEUES, LIGHT_QUEUES, QUEUES
from flask_belfry.scheduler.schedule import CUSTOM_PREFIX
from flask_belfry.statistics import SYSTEM_ID, FailureGroup, FailureState

log = structlog.get_logger(__name__)

# The limit of each part: all are checked concurrently.
LIMIT_SECONDS = 2.0
# A page shows what was found within about these times; it waits, as long as this, for first results only.
RECENT_SECONDS, RECENT_NETWORK_SECONDS = 10.0, 60.0
PAGE_WAIT_SECONDS = 0.1
RECENT = timedelta(days=1)
# What is shown of the message of an error.
MESSAGE_CHARACTERS = 200
LOOPBACK = ("localhost", "127.0.0.1", "::1")
WAITING_MAILS = "/mails?q=state:deferred"
UNFINISHED_PASSES = "does not finish its passes"
# What to check when a part does not respond in time.
REMEDIES = {
    "database": "check that it is running, DATABASE_URL, and for locks and load",
    "broker": "check that it is running, and REDIS_URL; jobs wait in the database",
    "smtp": "check that it is running, MAIL_SERVER and MAIL_PORT",
}
REMEDY_OF_OTHERS = "check the network and its settings"
ORDER = (
    "settings", "database", "migrations", "broker", "broker memory", "light workers", "heavy workers", "scheduler",
    "schedule", "jobs", "held domains", "smtp", "spf", "dkim", "dmarc",
)  # fmt: skip
# Why a server refuses us, if its reply names it.
REFUSALS = ("DMARC", "DKIM", "SPF", "PTR", "reverse DNS", "blocklist", "rate limit", "spam")

Check = Callable[[Flask], str | None]


@dataclass(frozen=True)
class Problem:
    """The result of checking one part, also of one that works.

    Args:
        part: which part.
        is_ok: whether it works.
        message: the cause and the remedy in one line, or what was found.
        cause: what is wrong.
        since: when it began, if that is known.
        remedy: how to fix it, if the cause does not name it.
        url: the path of the page that shows it, or "".
        severity: `ok`, `warning` or `error`.
    """

    part: str
    is_ok: bool
    message: str
    cause: str = ""
    since: datetime | None = None
    remedy: str = ""
    url: str = ""
    severity: str = "ok"

    @property
    def sentences(self) -> tuple[str, str]:
        """The cause and the remedy as a page shows them: names at the beginning are not changed."""
        return _capitalized(self.cause), _capitalized(self.remedy)


@dataclass(frozen=True)
class _Task:
    """A check of a part. Its failure is left out while one of the parts that it `needs` does not work."""

    part: str
    check: Check
    needs: Sequence[str] = ()
    is_on_network: bool = False


def check_all(app: Flask) -> list[Problem]:
    """Check every part, each within LIMIT_SECONDS."""
    runs = [_Run(app, task) for task in _tasks(app)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(max(0.0, run.started_at + LIMIT_SECONDS - time.monotonic()))
    return _merged((run.task, run.result()) for run in runs)


def recent(app: Flask, wait_seconds: float | None = None) -> tuple[list[Problem], list[str]]:
    """Return what the checks found recently, for a page: those that are due run in the background.

    Args:
        app: the application.
        wait_seconds: how long to wait for first results; None for PAGE_WAIT_SECONDS.

    Returns:
        the results, and the parts that have no result yet.
    """
    runs: dict[int, _Run] = app.extensions.setdefault("problem_checks", {})
    for number, task in enumerate(_tasks(app)):
        last = runs.get(number)
        if last is None or last.is_due():
            runs[number] = _Run(app, task, last)
            runs[number].start()
    deadline = time.monotonic() + (PAGE_WAIT_SECONDS if wait_seconds is None else wait_seconds)
    current = list(runs.values())
    for run in current:
        if run.is_first() and not run.task.is_on_network:
            run.join(max(0.0, deadline - time.monotonic()))
    return _merged((run.task, run.latest()) for run in current), [run.task.part for run in current if run.is_first()]


def of_scope() -> list[Problem]:
    """Return the problems with the jobs of the current scope, which its users may see, and of mail."""
    tasks = _Task("jobs", _jobs), _Task("held domains", _held_domains)
    return _merged((task, _found(current_app, task)) for task in tasks)


def known_count(app: Flask) -> int:
    """Return how many problems the overview shows in the current scope, for another page: of all parts, as they are
    known without waiting for a check, or of one school, as they were within RECENT_SECONDS."""
    scope = current_scope()
    if scope.sees_all:
        return _count(recent(app, wait_seconds=0.0)[0])
    counts: dict[int | None, tuple[float, int]] = app.extensions.setdefault("problem_counts", {})
    now = time.monotonic()
    counted_at, count = counts.get(scope.school_id, (-math.inf, 0))
    if now - counted_at >= RECENT_SECONDS:
        count = _count(of_scope())
        counts[scope.school_id] = now, count
    return count


def _count(found: Iterable[Problem]) -> int:
    return sum(not problem.is_ok for problem in found)


class _Run(threading.Thread):
    """One run of a check."""

    def __init__(self, app: Flask, task: _Task, last: _Run | None = None) -> None:
        super().__init__(daemon=True)  # a check that hangs must not delay the exit of the process
        self.task = task
        self.started_at = time.monotonic()
        self._app = app
        self._last = last.latest() if last else None
        self._problem: Problem | None = None
        self._is_finished = False

    def run(self) -> None:
        with self._app.app_context():
            self._problem = _found(self._app, self.task)
        self._is_finished = True

    def is_due(self) -> bool:
        """Whether to check again: a check that hangs is not started twice."""
        # A problem of the network is checked as often as the rest: it disappears soon after it was fixed.
        is_wrong = self._problem is not None and not self._problem.is_ok
        keep = RECENT_NETWORK_SECONDS if self.task.is_on_network and not is_wrong else RECENT_SECONDS
        return self._is_finished and time.monotonic() - self.started_at >= keep

    def is_first(self) -> bool:
        """Whether there is no result yet."""
        return self.latest() is None and not self._is_finished

    def latest(self) -> Problem | None:
        """Return what was found, by the run before while this one is within its limit."""
        if self._is_finished or time.monotonic() - self.started_at >= LIMIT_SECONDS:
            return self.result()
        return self._last

    def result(self) -> Problem | None:
        """Return what was found; a failure of the part if it has not responded, None if there is nothing to say."""
        if self._is_finished:
            return self._problem
        part = self.task.part
        # The parts that REMEDIES does not list read the database, or are the application's.
        remedy = REMEDIES.get(part, REMEDIES["database"] if "database" in self.task.needs else REMEDY_OF_OTHERS)
        return _problem(part, CheckError(f"no response within {LIMIT_SECONDS:g} s", remedy))


def _tasks(app: Flask) -> list[_Task]:
    on_rows = "database", "migrations"
    mail = [
        _Task(part, check, is_on_network=True)
        for part, check in {"smtp": _smtp, "spf": _spf, "dkim": _dkim, "dmarc": _dmarc}.items()
    ]
    of_host = [_Task(part, check, is_on_network=True) for part, check in current_host().checks().items()]
    common = [
        _Task("settings", _settings),
        _Task("database", _database),
        _Task("migrations", _migrations, ("database",)),
        _Task("schedule", _schedule, on_rows),
        _Task("jobs", _jobs, on_rows),
        _Task("held domains", _held_domains, on_rows),
        *mail,
        *of_host,
    ]
    if app.config["JOBS_EAGER"]:
        return common
    light = partial(_workers, queues=LIGHT_QUEUES, command="python cli.py jobs worker")
    heavy = partial(_workers, queues=HEAVY_QUEUES, command="python cli.py jobs worker --heavy")
    return [
        *common,
        _Task("light workers", light, on_rows),
        _Task("heavy workers", heavy, on_rows),
        _Task("scheduler", _scheduler, on_rows),
        _Task("broker", _broker),
        _Task("broker", _broker_ownership, on_rows),
        _Task("broker memory", _broker_memory, ("broker",)),
    ]


def _found(app: Flask, task: _Task) -> Problem | None:
    part = task.part
    try:
        message = task.check(app)
        return Problem(part, True, message) if message else None
    except CheckError as error:
        return _problem(part, error)
    except (MailError, ForeignBrokerError) as error:
        return _problem(part, CheckError(str(error)))
    except DBAPIError as error:
        return _problem(part, CheckError(database_problem(error)))
    except SQLAlchemyError as error:
        return _problem(part, CheckError(f"the database is unavailable ({type(error).__name__})", "check DATABASE_URL"))
    except redis.ResponseError as error:
        return _problem(part, CheckError(f"refuses a command that Belfry needs: {error}"))
    except redis.RedisError as error:
        remedy = "start Redis or Valkey, or check REDIS_URL; jobs wait in the database"
        return _problem(part, CheckError(str(error), remedy))
    except Exception as error:
        log.exception("doctor.check_failed", part=part)
        return _problem(part, CheckError(f"the check failed with {type(error).__name__}: {error}", "see the log"))


def _problem(part: str, error: CheckError) -> Problem:
    cause = f"{error.cause} since {_time_of(error.since)}" if error.since else error.cause
    message = f"{cause}: {error.remedy}" if error.remedy else cause
    severity = "warning" if error.is_warning else "error"
    return Problem(part, False, message, error.cause, error.since, error.remedy, error.url, severity)


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:] if text.split(" ", 1)[0].isalpha() else text


def _time_of(moment: datetime) -> str:
    is_today = moment.date() == utc_now().date()
    return f"{moment:%H:%M} UTC" if is_today else f"{moment:%Y-%m-%d %H:%M} UTC"


def _merged(found: Iterable[tuple[_Task, Problem | None]]) -> list[Problem]:
    """Return one result for each part, in one order; a failure that follows from another part's is left out."""
    results = [(task, problem) for task, problem in found if problem is not None]
    failed = {problem.part for _, problem in results if not problem.is_ok}
    parts: dict[str, Problem] = {}
    for task, problem in results:
        follows = not problem.is_ok and failed.intersection(task.needs)
        if not follows and (problem.part not in parts or parts[problem.part].is_ok):
            parts[problem.part] = problem
    scheduler = parts.get("scheduler")
    if scheduler and "broker" in failed and scheduler.message.startswith(UNFINISHED_PASSES):
        cause = f"{UNFINISHED_PASSES}: the broker is unavailable"
        parts["scheduler"] = replace(scheduler, message=cause, cause=cause)
    return [parts[part] for part in dict.fromkeys((*ORDER, *parts)) if part in parts]


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
        raise CheckError("; ".join(problems), is_warning=True)
    return f"APP_ENV={app.config['APP_ENV']}"


def _database(app: Flask) -> str:
    db.session.execute(sa.text("SELECT 1"))
    return db.engine.dialect.name


def _migrations(app: Flask) -> str:
    # Imported here: web processes need it only when someone opens the overview.
    from alembic.migration import MigrationContext

    revisions = set(MigrationContext.configure(db.session.connection()).get_current_heads())
    if not revisions:
        raise CheckError("the database is not migrated", "run `flask --app wsgi db upgrade`")
    if revisions != _heads(str(Path(app.root_path).parent / "migrations")):
        raise CheckError("the schema does not match this version", "run `flask --app wsgi db upgrade`")
    return "up to date"


@cache
def _heads(folder: str) -> frozenset[str]:
    """Return the revisions that the code expects. Once in a process: it reads all migrations."""
    from alembic.script import ScriptDirectory

    return frozenset(ScriptDirectory(folder).get_heads())


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


def _broker_memory(app: Flask) -> str:
    # Not CONFIG GET, which providers of Redis disable.
    memory: Any = publisher().connection.info("memory")
    policy, limit = memory.get("maxmemory_policy", "noeviction"), int(memory.get("maxmemory", 0))
    if policy != "noeviction":
        raise CheckError(
            f"Redis may evict keys: maxmemory-policy is {policy}",
            "set it to noeviction; evicted jobs are published again, but late",
            is_warning=True,
        )
    return "noeviction" + (f", {limit / 2**20:,.0f} MB at most" if limit else "")


def _workers(app: Flask, queues: Sequence[str], command: str) -> str:
    rows = _alive(app, WorkerProcess.queues != "")
    counts = {queue: sum(queue in row.queues.split(",") for row in rows) for queue in queues}
    if missing := [f"`{queue}`" for queue, count in counts.items() if not count]:
        raise CheckError(f"no worker serves {', '.join(missing)}", f"start `{command}`", url="/jobs/queues")
    return ", ".join(f"{queue} {count}" for queue, count in counts.items())


def _scheduler(app: Flask) -> str:
    if not _alive(app, WorkerProcess.kind == "scheduler"):
        remedy = "start `python scheduler.py`; retries and periodic jobs wait"
        raise CheckError(_silence() or "no scheduler is running", remedy, url="/schedule")
    if not scheduler_passes(db.session()):
        error = db.session.scalar(sa.select(Deployment.scheduler_error))
        raise CheckError(f"{UNFINISHED_PASSES} ({error or 'no error is recorded'})", url="/schedule")
    return "running"


def _silence() -> str | None:
    """Return for how long the scheduler is silent that has not stopped; None if there is none."""
    query = sa.select(WorkerProcess.heartbeat_at, database_now())
    query = query.where(WorkerProcess.kind == "scheduler", WorkerProcess.stopped_at.is_(None))
    row = db.session.execute(query.order_by(WorkerProcess.heartbeat_at.desc()).limit(1)).first()
    return None if row is None else f"scheduler silent for {_span((row[1] - row[0]).total_seconds())}"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.0f} h"


def _schedule(app: Flask) -> str:
    entries = periodic.entries()
    problems = [f"{entry.name} does not run: {problem}" for entry in entries if (problem := entry.problem())]
    if problems:
        raise CheckError(f"{'; '.join(problems)} Edit it at /schedule, or `flask schedule delete` it", url="/schedule")
    custom = sum(entry.name.startswith(CUSTOM_PREFIX) for entry in entries)
    return f"{len(entries) - custom} periodic jobs of the code, {custom} made by users"


def _jobs(app: Flask) -> str:
    """Check the jobs that failed recently, without those of groups that users ignore or have resolved since then.

    Of the failed jobs, the newest COUNT_LIMIT are looked at.
    """
    school_id = sa.func.coalesce(JobRecord.school_id, SYSTEM_ID).label("school_id")
    columns = JobRecord.error_type, JobRecord.error_message, JobRecord.fingerprint, JobRecord.finished_at, school_id
    newest = sa.select(*columns).where(JobRecord.state == JobState.FAILED).order_by(JobRecord.id.desc())
    rows = newest.limit(services.COUNT_LIMIT).subquery()
    group = FailureGroup
    is_settled = sa.exists().where(
        group.school_id == rows.c.school_id,
        group.fingerprint == rows.c.fingerprint,
        sa.or_(
            group.state == FailureState.IGNORED,
            sa.and_(group.state == FailureState.RESOLVED, group.changed_at >= rows.c.finished_at),
        ),
    )
    count = sa.func.count().label("jobs")
    query = sa.select(
        rows.c.error_type,
        count,
        sa.func.min(rows.c.finished_at).label("since"),
        sa.func.max(rows.c.error_message).label("message"),
        sa.func.min(rows.c.fingerprint).label("first_fingerprint"),
        sa.func.max(rows.c.fingerprint).label("last_fingerprint"),
        sa.func.min(rows.c.school_id).label("first_school"),
        sa.func.max(rows.c.school_id).label("last_school"),
    ).where(rows.c.finished_at >= utc_now() - RECENT, ~is_settled)
    groups = db.session.execute(query.group_by(rows.c.error_type).order_by(count.desc(), rows.c.error_type)).all()
    if groups:
        first, others = groups[0], sum(group.jobs for group in groups[1:])
        cause = f"{_jobs_in_words(first.jobs)} failed with {first.error_type or 'an error'}"
        more = f"{_jobs_in_words(others)} failed with other errors; " if others else ""
        example = f"such as: {shorten(first.message, MESSAGE_CHARACTERS, placeholder=' …')}; " if first.message else ""
        matching = f"error:{first.error_type}" if first.error_type else "state:failed"
        remedy = f"{example}{more}fix the cause, then retry them: `flask jobs retry --filter {matching}`"
        raise CheckError(cause, remedy, url=_url_of_failures(first), since=first.since)
    paused = ", ".join(f"{pause.kind.value} {pause.name}" for pause in active_pauses(db.session()))
    return "none failed in the last day" + (f"; paused: {paused} (see `flask queues list`)" if paused else "")


def _url_of_failures(failed: Any) -> str:
    """Return the path of the group of failed jobs with an error, of their groups, or of the jobs, which are in no group
    when they failed outside of an attempt."""
    if failed.first_fingerprint is None:
        return "/jobs/?state=failed"
    if (failed.first_school, failed.first_fingerprint) == (failed.last_school, failed.last_fingerprint):
        group = sa.select(FailureGroup.id).where(
            FailureGroup.school_id == failed.first_school, FailureGroup.fingerprint == failed.first_fingerprint
        )
        if id := db.session.scalar(group):
            return f"/jobs/failures/{id}"
    return f"/jobs/failures?{urlencode({'text': failed.error_type or ''})}"


def _jobs_in_words(count: int) -> str:
    more = "+" if count >= services.COUNT_LIMIT else ""
    return "1 job" if count == 1 else f"{count:,}{more} jobs"


def _held_domains(app: Flask) -> str:
    holds = held_domains()
    if not holds:
        return "none"
    causes = [f"{hold.domain} refuses our mail: {_refusal(hold.last_reply)}" for hold in holds]
    first = holds[0]
    remedy = (
        f"its server replied: {first.last_reply}; fix what it names, then `flask mail holds lift {first.domain}`:"
        f" mail waits until {first.held_until:%Y-%m-%d %H:%M} UTC"
    )
    raise CheckError("; ".join(causes), remedy, url="/mails/suppressions", since=first.held_since)


def _refusal(reply: str) -> str:
    """Return why a server refuses us in a word, if its reply names it."""
    return next((word for word in REFUSALS if word.lower() in reply.lower()), reply)


def _smtp(app: Flask) -> str:
    if not app.config["MAIL_ENABLED"]:
        return "disabled: MAIL_ENABLED is false, mails are recorded as suppressed"
    try:
        return check_connection()
    except MailError as error:
        # Without a server, the error names the remedy.
        remedy = f"{REMEDIES['smtp']}; mails are tried again" if app.config["MAIL_SERVER"] else ""
        raise CheckError(str(error), remedy, url=WAITING_MAILS) from error


def _spf(app: Flask) -> str | None:
    return check_spf() if app.config["MAIL_ENABLED"] else None


def _dkim(app: Flask) -> str | None:
    return check_dkim() if app.config["MAIL_ENABLED"] else None


def _dmarc(app: Flask) -> str | None:
    return check_dmarc() if app.config["MAIL_ENABLED"] else None


def _alive(app: Flask, *conditions: sa.ColumnElement[bool]) -> list[WorkerProcess]:
    is_alive = WorkerProcess.is_alive(app.config["RESCUE_AFTER_SECONDS"])
    return list(db.session.scalars(sa.select(WorkerProcess).where(is_alive, *conditions)))
