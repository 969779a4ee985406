"""The figures of a time: what pages, the API, the commands and the metrics read, never the history itself.

Times up to SHORT are added up from minutes; longer ones from hours, beginning with the hour of `since`, and from the
minutes of hours that are not complete yet. Figures are those of the current scope; in that of all schools, a caller
may choose one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
from flask import current_app

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.db.tenancy import current_scope
from flask_belfry.statistics.histograms import BUCKETS, percentile
from flask_belfry.statistics.models import (
    ALL_ID,
    Counted,
    FailureCount,
    JobStatistics,
    QueueSample,
    Release,
    Resolution,
)
from flask_belfry.statistics.roll_up import complete_until
from flask_belfry.statistics.times import HOUR, MINUTE, hour_of

SHORT = timedelta(hours=3)
# The times that overviews show.
SPANS = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7)}
COUNTS = ("completed", "failed", "cancelled", "attempts")
PERCENTS = (50, 95, 99)
# What `series` can show: the counts, and the percentiles of the times.
METRICS = (*COUNTS, *(f"{times}_p{percent}" for times in ("wait", "run") for percent in PERCENTS))
_HISTOGRAMS = {times: tuple(f"{times}_{bucket}" for bucket in range(BUCKETS)) for times in ("wait", "run")}
_T = TypeVar("_T")
_V = TypeVar("_V")
Series = list[tuple[datetime, float | None]]
Sums = dict[tuple[Any, ...], list[int]]
# Of a week, all but the last hour is read once by each process: so many results of different questions are kept.
MAX_KEPT = 200


@dataclass(frozen=True)
class JobFigures:
    """The jobs of one name that ended in a time: how many, how many attempts failed, and percentiles in seconds."""

    name: str
    queue: str
    completed: int
    failed: int
    cancelled: int
    attempts: int
    wait_p50: float | None
    wait_p95: float | None
    wait_p99: float | None
    run_p50: float | None
    run_p95: float | None
    run_p99: float | None


@dataclass(frozen=True)
class FailureCounts:
    """How many attempts of a group failed in the last hour, day and week."""

    hour: int
    day: int
    week: int


@dataclass(frozen=True)
class Part:
    """The rows of one resolution in a time."""

    resolution: Resolution
    since: datetime
    until: datetime

    @property
    def is_final(self) -> bool:
        """Whether its rows are not written again: an hour is added up when it is complete."""
        return self.resolution is Resolution.HOUR

    def conditions(self, model: Any) -> tuple[sa.ColumnElement[bool], ...]:
        """Return the conditions for the rows of a model with `resolution` and `at`."""
        return model.resolution == self.resolution, model.at >= self.since, model.at < self.until


def parts_of(since: datetime, until: datetime, sources: Sequence[str]) -> list[Part]:
    """Return the rows that cover a time, of a model that these sources count."""
    if until - since <= SHORT:
        return [Part(Resolution.MINUTE, since, until)]
    begin = hour_of(since)
    complete = hour_of(complete_until(db.session(), *sources) or begin)
    end = max(begin, min(complete, hour_of(until)))
    parts = Part(Resolution.HOUR, begin, end), Part(Resolution.MINUTE, end, until)
    return [part for part in parts if part.since < part.until]


def school_of(school_id: int | None) -> int:
    """Return the `school_id` of the rows to read: a school's, or ALL_ID in the scope of all schools."""
    own = current_scope().school_id
    if school_id is not None:
        return school_id
    return ALL_ID if own is None else own


def sums_of(
    model: type[Counted],
    columns: Sequence[str],
    keys: Sequence[str],
    parts: Iterable[Part],
    school_id: int | None = None,
    **conditions: str | None,
) -> Sums:
    """Return the sums of columns for each combination of values of the keys.

    Args:
        model: the model.
        columns: its counts.
        keys: columns of its key.
        parts: which rows.
        school_id: of which school; None for the current scope.
        conditions: columns, and the values that they must have unless None.
    """
    of: Any = model
    selected = [getattr(of, name) for name in keys]
    sums = [sa.func.sum(getattr(of, name)) for name in columns]
    equal = [getattr(of, name) == value for name, value in conditions.items() if value is not None]
    own = school_of(school_id)

    def read(part: Part) -> Sums:
        query = sa.select(*selected, *sums).where(of.school_id == own, *part.conditions(of), *equal)
        rows = db.session.execute(query.group_by(*selected))
        return {tuple(row[: len(keys)]): [int(value) for value in row[len(keys) :]] for row in rows}

    found: Sums = {}
    for part in parts:
        asked = (model.__name__, tuple(columns), tuple(keys), own, current_scope(), part, *conditions.items())
        for key, values in (_kept(asked, partial(read, part)) if part.is_final else read(part)).items():
            known = found.get(key)
            found[key] = values if known is None else [a + b for a, b in zip(known, values, strict=True)]
    return found


def _kept(key: Any, read: Callable[[], Sums]) -> Sums:
    """Return what `read` returns, which is not read again by this process."""
    kept: dict[Any, Sums] = current_app.extensions.setdefault("final_statistics", {})
    if (found := kept.get(key)) is None:
        found = kept[key] = read()
        # Threads of this process share it. Losing an entry to another thread costs one query.
        for oldest in list(kept)[:-MAX_KEPT]:
            kept.pop(oldest, None)
    return found


def job_figures(since: datetime, until: datetime | None = None, school_id: int | None = None) -> list[JobFigures]:
    """Return the figures of each job name and queue with an end or a failed attempt in this time, by name."""
    columns = [*COUNTS, *_HISTOGRAMS["wait"], *_HISTOGRAMS["run"]]
    parts = parts_of(since, until or utc_now(), _JOB_SOURCES)
    found = sums_of(JobStatistics, columns, ["name", "queue"], parts, school_id)
    return [_figures(key, values) for key, values in sorted(found.items())]


def series(
    metrics: Sequence[str],
    since: datetime,
    until: datetime | None = None,
    points: int = 60,
    *,
    school_id: int | None = None,
    name: str | None = None,
    queue: str | None = None,
) -> dict[str, Series]:
    """Return some of METRICS over time: a count is 0 where nothing ended, a percentile None.

    Args:
        metrics: which.
        since: the beginning.
        until: the end; None for now.
        points: the most points, each for the same time.
        school_id: of which school; None for the current scope.
        name: of which job; None for all.
        queue: of which queue; None for all.

    Raises:
        ValueError: a metric is unknown.
    """
    check_metrics(metrics, METRICS)
    parts = parts_of(since, until or utc_now(), _JOB_SOURCES)
    columns = {metric: _HISTOGRAMS.get(metric.partition("_p")[0], (metric,)) for metric in metrics}
    found = series_of(JobStatistics, columns, parts, points, school_id, name=name, queue=queue)
    return {metric: [(at, _value(metric, sums)) for at, sums in values] for metric, values in found.items()}


def series_of(
    model: type[Counted],
    columns: Mapping[str, Sequence[str]],
    parts: Sequence[Part],
    points: int,
    school_id: int | None = None,
    **conditions: str | None,
) -> dict[str, list[tuple[datetime, list[int]]]]:
    """Return the sums of columns over time, by the keys of `columns`. All are read in one statement.

    The other arguments are those of `series` and `sums_of`.
    """
    names = list(dict.fromkeys(name for each in columns.values() for name in each))
    found = {at: sums for (at,), sums in sums_of(model, names, ["at"], parts, school_id, **conditions).items()}
    nothing = [0] * len(names)
    added = in_points(found, parts, points, lambda rows: [sum(each) for each in zip(nothing, *rows, strict=True)])
    places = {key: [names.index(name) for name in each] for key, each in columns.items()}
    return {key: [(at, [sums[place] for place in each]) for at, sums in added] for key, each in places.items()}


def ended_by_queue(since: datetime, until: datetime | None = None, school_id: int | None = None) -> dict[str, int]:
    """Return how many jobs of each queue were finalized in this time."""
    parts = parts_of(since, until or utc_now(), _JOB_SOURCES)
    found = sums_of(JobStatistics, ("completed", "failed", "cancelled"), ["queue"], parts, school_id)
    return {queue: sum(counts) for (queue,), counts in found.items()}


def latest_samples(within: timedelta) -> dict[str, QueueSample]:
    """Return the latest sample of each queue, of all schools together, if it was taken within this time."""
    latest = sa.select(sa.func.max(QueueSample.at)).where(QueueSample.at > utc_now() - within).scalar_subquery()
    samples = db.session.scalars(sa.select(QueueSample).where(QueueSample.at == latest))
    return {sample.queue: sample for sample in samples}


def check_metrics(metrics: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError for metrics that are not among the known ones."""
    for metric in metrics:
        if metric not in known:
            raise ValueError(f"metric must be one of {', '.join(known)}, not {metric!r}")


def failure_counts(group_ids: Collection[str], now: datetime | None = None) -> dict[str, FailureCounts]:
    """Return the counts of groups, which the caller has read in its scope."""
    now = now or utc_now()
    spans = {name: now - span for name, span in _FAILURE_SPANS.items()}
    counters = {name: _failures(group_ids, since, now) for name, since in spans.items()}
    return {id: FailureCounts(**{name: counter[id] for name, counter in counters.items()}) for id in group_ids}


def failure_series(
    group_ids: Collection[str], since: datetime, until: datetime | None = None, points: int = 24
) -> dict[str, Series]:
    """Return the failures of groups over time, which the caller has read in its scope."""
    until = until or utc_now()
    parts = parts_of(since, until, _FAILURE_SOURCES)
    values: dict[str, dict[datetime, int]] = {id: {} for id in group_ids}
    for part in parts:
        query = sa.select(FailureCount.group_id, FailureCount.at, FailureCount.failures)
        query = query.where(FailureCount.group_id.in_(group_ids), *part.conditions(FailureCount))
        for row in db.session.execute(query):
            values[row.group_id][row.at] = row.failures
    return {id: in_points(found, parts, points, sum) for id, found in values.items()}


def releases(since: datetime) -> Sequence[Release]:
    """Return the releases that were first seen since then, the oldest first."""
    query = sa.select(Release).where(Release.first_seen_at >= since).order_by(Release.first_seen_at)
    return db.session.scalars(query).all()


def in_points(
    values: Mapping[datetime, _T], parts: Sequence[Part], points: int, combine: Callable[[list[_T]], _V]
) -> list[tuple[datetime, _V]]:
    """Return the values of rows combined into points of equal length, with the time at which each begins."""
    since, until = parts[0].since, parts[-1].until
    smallest = HOUR if any(part.resolution is Resolution.HOUR for part in parts) else MINUTE
    # Whole units: the last point has the rest, such as the minutes of the current hour.
    units = max(1, (until - since + timedelta(seconds=1)) // smallest)
    units_of_point = -(-units // points)
    step = smallest * units_of_point
    found: list[list[_T]] = [[] for _ in range(-(-units // units_of_point))]
    for at, value in values.items():
        found[min((at - since) // step, len(found) - 1)].append(value)
    return [(since + number * step, combine(each)) for number, each in enumerate(found)]


_JOB_SOURCES = ("jobs", "attempts")
_FAILURE_SOURCES = ("failures",)
_FAILURE_SPANS = dict(zip(("hour", "day", "week"), SPANS.values(), strict=True))


def _figures(key: tuple[Any, ...], values: list[int]) -> JobFigures:
    name, queue = key
    histograms = values[len(COUNTS) : len(COUNTS) + BUCKETS], values[len(COUNTS) + BUCKETS :]
    return JobFigures(name, queue, *values[: len(COUNTS)], *(percentile(h, p) for h in histograms for p in PERCENTS))


def _value(metric: str, sums: Sequence[int]) -> float | None:
    percent = metric.partition("_p")[2]
    return percentile(sums, float(percent)) if percent else sums[0]


def _failures(group_ids: Collection[str], since: datetime, until: datetime) -> Counter[str]:
    counted: Counter[str] = Counter()
    for part in parts_of(since, until, _FAILURE_SOURCES):
        query = sa.select(FailureCount.group_id, sa.func.sum(FailureCount.failures).label("failures"))
        query = query.where(FailureCount.group_id.in_(group_ids), *part.conditions(FailureCount))
        rows = db.session.execute(query.group_by(FailureCount.group_id))
        counted.update({row.group_id: int(row.failures) for row in rows})
    return counted
