"""The depth and the oldest age of each queue over time, from the samples that the scheduler takes."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from flask import current_app

from flask_belfry.db import db
from flask_belfry.outbox.registry import QUEUES
from flask_belfry.statistics import QueueSample
from flask_belfry.statistics.reading import Series
from flask_belfry.statistics.times import HOUR, hour_in_sql, minute_in_sql, seconds_between

# A week has more than a hundred thousand samples: what is read by the hour is kept for this time.
KEPT_SECONDS = 60.0


@dataclass(frozen=True)
class QueueHistory:
    """The largest number of waiting jobs of a queue in each step, and how long at most the oldest had waited."""

    waiting: Series
    age_seconds: Series


def queue_histories(since: datetime, points: int, step: timedelta) -> dict[str, QueueHistory]:
    """Return the history of each queue: `points` values of `step`, from `since` on; None where no sample was taken."""
    kept: dict[Any, tuple[float, dict[str, QueueHistory]]] = current_app.extensions.setdefault("queue_histories", {})
    found = kept.get((points, step))
    if found is None or found[1][QUEUES[0]].waiting[0][0] != since or time.monotonic() - found[0] >= KEPT_SECONDS:
        found = time.monotonic(), _read(since, points, step)
        if step >= HOUR:
            kept[points, step] = found
    return found[1]


def _read(since: datetime, points: int, step: timedelta) -> dict[str, QueueHistory]:
    at: Any = (hour_in_sql if step >= HOUR else minute_in_sql)(QueueSample.at)
    age = sa.func.max(sa.func.coalesce(seconds_between(QueueSample.oldest_at, QueueSample.at), 0.0))
    query = sa.select(
        QueueSample.queue, at.label("at"), sa.func.max(QueueSample.waiting).label("waiting"), age.label("age")
    )
    query = query.where(QueueSample.at >= since, QueueSample.at < since + points * step).group_by(QueueSample.queue, at)
    waiting: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    ages: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    for row in db.session.execute(query):
        point = row.queue, (row.at - since) // step
        waiting[point].append(row.waiting)
        ages[point].append(row.age)
    times = [(number, since + number * step) for number in range(points)]
    return {
        queue: QueueHistory(
            [(at, max(waiting[queue, number], default=None)) for number, at in times],
            [(at, max(ages[queue, number], default=None)) for number, at in times],
        )
        for queue in QUEUES
    }
