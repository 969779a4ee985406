"""Histograms of durations with fixed buckets, as Prometheus has them, and their percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

# The upper bounds of the buckets in seconds; the last bucket has none.
BOUNDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
BUCKETS = len(BOUNDS) + 1


def bucket_of(seconds: sa.ColumnElement[float]) -> sa.ColumnElement[int]:
    """Return the SQL expression for the number of the bucket of a duration in seconds."""
    whens: list[Any] = [(seconds <= bound, number) for number, bound in enumerate(BOUNDS)]
    return sa.case(*whens, else_=len(BOUNDS))


def percentile(counts: Sequence[int], percent: float) -> float | None:
    """Return a percentile in seconds, interpolated within its bucket; None for an empty histogram.

    Args:
        counts: the number of durations in each of the BUCKETS.
        percent: from 0 to 100.

    Returns:
        the seconds; of the bucket without an upper bound, its lower bound.
    """
    rank = sum(counts) * percent / 100
    if not any(counts):
        return None
    below = 0
    for number, count in enumerate(counts):
        if count and below + count >= rank:
            lower = BOUNDS[number - 1] if number else 0.0
            upper = BOUNDS[number] if number < len(BOUNDS) else lower
            return lower + (upper - lower) * max(0.0, rank - below) / count
        below += count
    return BOUNDS[-1]
