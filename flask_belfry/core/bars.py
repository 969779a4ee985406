"""The segments of a progress bar, which pages draw as an SVG of 1,000 units."""

from __future__ import annotations

from collections.abc import Mapping

BAR_UNITS = 1_000
# The width of a segment of a few among many.
MIN_UNITS = 8

# Its name, its start and its width.
Segment = tuple[str, float, float]


def segments(counts: Mapping[str, int], total: int) -> list[Segment]:
    """Return the segments of a bar, in the order of `counts`; the rest of `total` is left empty."""
    sizes = {name: max(number * BAR_UNITS / total, MIN_UNITS) for name, number in counts.items() if number}
    # Without this, segments of few would move the others out of the bar.
    is_full = total == sum(counts.values())
    excess = max(sum(sizes.values()) + (0 if is_full else MIN_UNITS) - BAR_UNITS, 0)
    if excess:
        sizes[max(sizes, key=lambda name: sizes[name])] -= excess
    found, start = [], 0.0
    for name, size in sizes.items():
        found.append((name, round(start, 2), round(size, 2)))
        start += size
    return found
