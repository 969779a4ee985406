"""Figures: medians of rounds, ratios, and the lines that tell them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of the values do not exceed (nearest rank).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values have no percentile")
    rank = max(1, math.ceil(len(values) * percent / 100))
    return sorted(values)[rank - 1]


def median(values: Sequence[float]) -> float:
    """The median of what the rounds gave."""
    return statistics.median(values)


def line(name: str, value: float, unit: str) -> str:
    """`name value unit`, with three digits at least."""
    return f"{name} {rounded(value)} {unit}"


def rounded(value: float) -> str:
    """A value with as many decimals as its size deserves."""
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{decimals}f}"
