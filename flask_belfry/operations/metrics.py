"""The metrics of `/metrics`, read from SQL: so each process shows the same ones, and those of dead workers end.

Every label has few values: no ids, schools or email addresses. docs/monitoring.md lists the metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import accumulate

import sqlalchemy as sa
from flask import current_app
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope
from flask_belfry.mail import MailDomainHold, MailTotals, kinds
from flask_belfry.outbox import Deployment, JobRecord, JobState, WorkerProcess
from flask_belfry.outbox.registry import definitions
from flask_belfry.statistics import FailureGroup, FailureState, JobTotals, Release, RollUp, measures
from flask_belfry.statistics.histograms import BOUNDS, BUCKETS
from flask_belfry.statistics.reading import latest_samples

# The kinds that alerts expect, even if no process of a kind runs.
WORKER_KINDS = ("light", "heavy", "scheduler")
# Older samples are not shown: an alert is raised about the scheduler instead.
SAMPLE_AGE = timedelta(minutes=5)
RELEASES = 5
_OUTCOMES = ("completed", "failed", "cancelled")
_LE = (*(floatToGoString(bound) for bound in BOUNDS), "+Inf")


class BelfryCollector(Collector):
    """Reads all metrics whenever they are requested."""

    def collect(self) -> Iterable[Metric]:
        """Return the metrics, in the scope of all schools."""
        with use_scope(ALL_TENANTS):
            return [*_jobs(), *_mails(), *_queues(), *_outbox(), *_processes(), *_failures(), *_releases()]


def exposition() -> bytes:
    """Return the metrics in the text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(BelfryCollector())
    return generate_latest(registry)


def _jobs() -> Iterator[Metric]:
    finished = CounterMetricFamily(
        "belfry_jobs_finished", "Jobs that were completed, failed or cancelled.", labels=["name", "queue", "outcome"]
    )
    attempts = CounterMetricFamily(
        "belfry_job_attempts_failed", "Failed attempts, also those that were retried.", labels=["name", "queue"]
    )
    wait = Metric("belfry_job_wait_seconds", "The time from when a job was due until its last start.", "histogram")
    run = Metric("belfry_job_run_seconds", "The time from the last start of a job until its end.", "histogram")
    totals = {(row.name, row.queue): row for row in db.session.scalars(sa.select(JobTotals))}
    known = {definition.name: definition.queue for definition in definitions()}
    # With a series from the start, the first failure is an increase.
    for name, queue in sorted(known.items() | totals.keys()):
        if name not in known:
            continue
        row = totals.get((name, queue))
        for outcome in _OUTCOMES:
            finished.add_metric([name, queue, outcome], getattr(row, outcome, 0))
        attempts.add_metric([name, queue], getattr(row, "attempts", 0))
        if row is not None:
            _add_histogram(wait, {"name": name, "queue": queue}, row, "wait")
            _add_histogram(run, {"name": name, "queue": queue}, row, "run")
    yield from (finished, attempts, wait, run)
    complete = GaugeMetricFamily(
        "belfry_statistics_complete_timestamp_seconds",
        "Until when the counters of jobs and mails are complete; later minutes are added when they are.",
        labels=["statistics"],
    )
    for roll_up in db.session.scalars(sa.select(RollUp)):
        complete.add_metric([roll_up.name], roll_up.complete_until.timestamp())
    yield complete


def _add_histogram(metric: Metric, labels: Mapping[str, str], row: JobTotals, prefix: str) -> None:
    # Without a sum: buckets are all that is known.
    counts = list(accumulate(getattr(row, f"{prefix}_{bucket}") for bucket in range(BUCKETS)))
    for bound, count in zip(_LE, counts, strict=True):
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": bound}, count)
    metric.add_sample(f"{metric.name}_count", dict(labels), counts[-1])


def _mails() -> Iterator[Metric]:
    mails = CounterMetricFamily(
        "belfry_mails",
        "Mails by what happened to them: accepted (enqueued), sent, deferred, failed, bounced, skipped.",
        labels=["kind", "event"],
    )
    totals = {row.kind: row for row in db.session.scalars(sa.select(MailTotals))}
    for kind in sorted(each.name for each in kinds()):
        for event in measures(MailTotals):
            mails.add_metric([kind, event], getattr(totals.get(kind), event, 0))
    held = sa.select(sa.func.count()).select_from(MailDomainHold).where(MailDomainHold.held_since.is_not(None))
    yield mails
    yield _gauge("belfry_mail_held_domains", "Domains whose server refuses our mail.", db.session.scalar(held))


def _queues() -> Iterator[Metric]:
    jobs = GaugeMetricFamily(
        "belfry_queue_jobs", "Live jobs of a queue when it was last sampled.", labels=["queue", "state"]
    )
    age = GaugeMetricFamily(
        "belfry_queue_oldest_age_seconds",
        "How long the oldest waiting job of a queue has waited since it was due; 0 when none waits.",
        labels=["queue"],
    )
    now = utc_now()
    for sample in latest_samples(SAMPLE_AGE).values():
        for state in ("waiting", "running", "scheduled", "blocked"):
            jobs.add_metric([sample.queue, state], getattr(sample, state))
        age.add_metric([sample.queue], _seconds_since(sample.oldest_at, now))
    yield from (jobs, age)


def _outbox() -> Iterator[Metric]:
    # Ids are ordered by time: the index of state and id finds the oldest job.
    due_at = sa.func.coalesce(JobRecord.scheduled_at, JobRecord.started_at, JobRecord.created_at)
    oldest = sa.select(due_at).where(JobRecord.state == JobState.PENDING).order_by(JobRecord.id).limit(1)
    yield _gauge(
        "belfry_outbox_lag_seconds",
        "How long the oldest committed job has waited to be published; 0 when none waits.",
        _seconds_since(db.session.scalar(oldest), utc_now()),
    )


def _processes() -> Iterator[Metric]:
    workers = GaugeMetricFamily("belfry_workers", "Live processes of the job system.", labels=["kind"])
    memory = GaugeMetricFamily("belfry_workers_memory_bytes", "The memory that they use.", labels=["kind"])
    is_alive = WorkerProcess.is_alive(current_app.config["RESCUE_AFTER_SECONDS"])
    columns = WorkerProcess.kind, sa.func.count(), sa.func.sum(WorkerProcess.memory_bytes)
    found = {
        kind: (count, used)
        for kind, count, used in db.session.execute(sa.select(*columns).where(is_alive).group_by(WorkerProcess.kind))
    }
    for kind in sorted(found.keys() | {*WORKER_KINDS}):
        count, used = found.get(kind, (0, None))
        workers.add_metric([kind], count)
        if used is not None:
            memory.add_metric([kind], float(used))
    yield from (workers, memory)
    passed_at = db.session.scalar(sa.select(Deployment.scheduler_passed_at))
    yield _gauge(
        "belfry_scheduler_last_pass_timestamp_seconds",
        "When a scheduler last finished a pass; 0 before the first one.",
        passed_at.timestamp() if passed_at else 0,
    )


def _failures() -> Iterator[Metric]:
    groups = GaugeMetricFamily("belfry_failure_groups", "Groups of failures with the same cause.", labels=["state"])
    query = sa.select(FailureGroup.state, sa.func.count()).group_by(FailureGroup.state)
    counts = dict(db.session.execute(query).all())
    for state in FailureState:
        groups.add_metric([state.value], counts.get(state, 0))
    yield groups


def _releases() -> Iterator[Metric]:
    release = current_app.config["RELEASE"]
    info = InfoMetricFamily("belfry_release", "The release of the process that answers.", value={"release": release})
    seen = GaugeMetricFamily(
        "belfry_release_first_seen_timestamp_seconds", "When each of the latest releases began.", labels=["release"]
    )
    for row in db.session.scalars(sa.select(Release).order_by(Release.first_seen_at.desc()).limit(RELEASES)):
        seen.add_metric([row.name], row.first_seen_at.timestamp())
    yield from (info, seen)


def _gauge(name: str, documentation: str, value: float | None) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value or 0)


def _seconds_since(moment: datetime | None, now: datetime) -> float:
    return max(0.0, (now - moment).total_seconds()) if moment else 0.0
