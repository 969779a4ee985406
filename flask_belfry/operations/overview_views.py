"""The overview of operations: problems with their remedies, and what happened in the last hour, day or week."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from flask import Blueprint, current_app, render_template, request
from flask.globals import app_ctx
from flask.typing import ResponseReturnValue

from flask_belfry import live
from flask_belfry.changes.host import authorized, current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.db.tenancy import current_scope
from flask_belfry.mail import mail_figures, mail_series
from flask_belfry.operations import charts, problems
from flask_belfry.operations.charts import Chart, Line
from flask_belfry.operations.problems import Problem
from flask_belfry.operations.queue_history import queue_histories
from flask_belfry.outbox import JobRecord, JobState, WorkerProcess
from flask_belfry.outbox.registry import QUEUES
from flask_belfry.statistics import QueueSample, Release, reading
from flask_belfry.statistics.reading import JobFigures, Series
from flask_belfry.statistics.roll_up import complete_until
from flask_belfry.statistics.times import HOUR, MINUTE, hour_of, minute_of

pages = Blueprint("overview", __name__, template_folder="templates", url_prefix="/operations")
pages.add_app_template_filter(charts.seconds, "short_duration")

VIEW = "jobs.view"
# The figures change every 10 s, and cost more than a list: the page is polled less often.
KEPT_SECONDS = 18.0
SERIES = ("completed", "failed", "wait_p95", "run_p95")
MAIL_COUNTS = ("accepted", "sent", "deferred", "failed", "bounced", "skipped")
# Samples of queues are older than this only when no scheduler takes them.
SAMPLED_WITHIN = timedelta(minutes=2)


@dataclass(frozen=True)
class Span:
    """A time to show: `points` values of `step` each, of which the last is not over."""

    name: str
    title: str
    step: timedelta
    points: int

    def bounds(self, now: datetime) -> tuple[datetime, datetime]:
        """Return its beginning and its end."""
        until = minute_of(now) + MINUTE if self.step == MINUTE else hour_of(now) + HOUR
        return until - self.points * self.step, until


SPANS = {
    span.name: span
    for span in (
        Span("1h", "1 hour", MINUTE, 60),
        Span("24h", "24 hours", HOUR, 24),
        Span("7d", "7 days", 2 * HOUR, 84),
    )
}


@dataclass(frozen=True)
class Totals:
    """The jobs of all names that ended in a span."""

    completed: int
    failed: int
    attempts: int


@dataclass(frozen=True)
class QueueRow:
    """A queue with its latest sample, and the path of its depth over the span."""

    name: str
    sample: QueueSample | None
    depth: str


@dataclass(frozen=True)
class WorkerRow:
    """The running processes of one kind."""

    kind: str
    processes: int
    hosts: Sequence[str]
    queues: Sequence[str]
    releases: Sequence[str]


@pages.get("")
@authorized(VIEW)
def operations() -> ResponseReturnValue:
    """Show the overview; `span` in the query selects its time: 1h, 24h or 7d."""
    return render_template("operations/overview.html", **_context())


@pages.get("/live")
@authorized(VIEW)
def operations_live() -> ResponseReturnValue:
    """Return the part of the overview that is updated live."""
    return live.respond("operations/_overview.html", _context, KEPT_SECONDS)


def _context() -> dict[str, Any]:
    span = SPANS.get(request.args.get("span", ""), SPANS["1h"])
    since, until = span.bounds(utc_now())
    figures = reading.job_figures(since, until)
    releases = [(release.name, release.first_seen_at) for release in reading.releases(since)]
    series = reading.series(SERIES, since, until, span.points)
    # The queues, the processes and the application's own figures are not those of one school.
    is_system = current_scope().sees_all
    return {
        "span": span,
        "spans": list(SPANS.values()),
        "is_system": is_system,
        "is_counted": complete_until(db.session(), "jobs") is not None,
        "jobs": sorted(figures, key=lambda row: (-row.failed, -row.attempts, -row.completed, row.name)),
        "totals": _totals(figures),
        "throughput": _throughput(series, releases),
        "times": _times(series, releases),
        "mails": _mails(since, until),
        "mail_chart": _mail_chart(span, since, until, releases),
        **(_of_system(span, since, until, releases) if is_system else _of_school()),
    }


def _of_school() -> dict[str, Any]:
    return {"problems": _worded(problems.of_scope()), "working": [], "pending": []}


def _of_system(span: Span, since: datetime, until: datetime, releases: list[tuple[str, datetime]]) -> dict[str, Any]:
    found, pending = problems.recent(app_ctx.app)
    histories = queue_histories(since, span.points, span.step)
    depths = {queue: history.waiting for queue, history in histories.items()}
    ages = {queue: history.age_seconds for queue, history in histories.items()}
    samples = reading.latest_samples(SAMPLED_WITHIN)
    return {
        "problems": _worded(found),
        "working": [each.part for each in found if each.is_ok],
        "pending": pending,
        "queues": [
            QueueRow(queue, samples.get(queue), charts.sparkline([value for _, value in depths[queue]]))
            for queue in QUEUES
        ],
        "depth": charts.line_chart("depth", "Waiting jobs", _of_queues(depths), releases=releases),
        "ages": charts.line_chart(
            "age", "Oldest waiting job", _of_queues(ages), show=charts.seconds, is_duration=True, releases=releases
        ),
        "waiting": sum(sample.waiting for sample in samples.values()) if samples else None,
        "oldest_at": min((each.oldest_at for each in samples.values() if each.oldest_at), default=None),
        "unpublished_since": _unpublished_since(),
        "workers": _workers(),
        "figures": current_host().figures(since),
        "releases": _releases(),
    }


def _worded(found: Sequence[Problem]) -> list[tuple[Problem, str, str]]:
    """Return the problems with their causes and remedies as sentences, errors before warnings."""
    wrong = [(each, *each.sentences) for each in found if not each.is_ok]
    return sorted(wrong, key=lambda row: row[0].severity)


def _totals(figures: Sequence[JobFigures]) -> Totals:
    return Totals(*(sum(getattr(row, name) for row in figures) for name in ("completed", "failed", "attempts")))


def _throughput(series: Mapping[str, Series], releases: list[tuple[str, datetime]]) -> Chart:
    lines = [Line(name.capitalize(), name, series[name]) for name in ("completed", "failed")]
    return charts.bar_chart("throughput", "Jobs that ended", lines, releases=releases)


def _times(series: Mapping[str, Series], releases: list[tuple[str, datetime]]) -> Chart:
    titles = {"wait": "Waiting", "run": "Running"}
    lines = [Line(f"{title}, p95", tone, series[f"{tone}_p95"]) for tone, title in titles.items()]
    return charts.line_chart(
        "times", "Waiting and running time", lines, show=charts.seconds, is_duration=True, releases=releases
    )


def _of_queues(series: dict[str, Series]) -> list[Line]:
    return [Line(queue, f"queue-{number}", values) for number, (queue, values) in enumerate(series.items(), 1)]


def _mails(since: datetime, until: datetime) -> dict[str, int]:
    rows = mail_figures(since, until)
    return {name: sum(getattr(row, name) for row in rows) for name in MAIL_COUNTS}


def _mail_chart(span: Span, since: datetime, until: datetime, releases: list[tuple[str, datetime]]) -> Chart:
    titles = {"sent": "Sent", "deferred": "Retried", "failed": "Failed", "bounced": "Bounced"}
    series = mail_series(list(titles), since, until, span.points)
    lines = [Line(title, name, series[name]) for name, title in titles.items()]
    return charts.bar_chart("mails", "Mails", lines, releases=releases)


def _unpublished_since() -> datetime | None:
    """Return since when the oldest job waits to be published to the broker."""
    since = sa.func.coalesce(JobRecord.enqueued_at, JobRecord.created_at)
    query = sa.select(since).where(JobRecord.state == JobState.PENDING).order_by(JobRecord.id).limit(1)
    return db.session.scalar(query)


def _workers() -> list[WorkerRow]:
    is_alive = WorkerProcess.is_alive(current_app.config["RESCUE_AFTER_SECONDS"])
    by_kind: dict[str, list[WorkerProcess]] = {}
    for process in db.session.scalars(sa.select(WorkerProcess).where(is_alive).order_by(WorkerProcess.kind)):
        by_kind.setdefault(process.kind, []).append(process)
    return [
        WorkerRow(
            kind,
            len(found),
            sorted({process.host for process in found}),
            [queue for queue in QUEUES if any(queue in process.queues.split(",") for process in found)],
            sorted({process.release for process in found if process.release}),
        )
        for kind, found in by_kind.items()
    ]


def _releases() -> Sequence[Release]:
    return db.session.scalars(sa.select(Release).order_by(Release.first_seen_at.desc()).limit(3)).all()
