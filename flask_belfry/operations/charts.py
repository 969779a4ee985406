"""Charts as SVG, computed at the server: classes only, since the policy of pages forbids styles within them.

A chart fills the box that its page gives it, so all coordinates are in units of WIDTH by HEIGHT. Its axes are text
beside the drawing, and its values are a table, for readers who do not see the drawing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

WIDTH, HEIGHT = 600.0, 150.0
# An axis ends with a round number whose half is round too; one of durations with one of these, or with whole days.
_ROUND = (1, 2, 4, 6, 10)
_ROUND_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_200, 1_800, 3_600, 7_200, 14_400, 43_200)
_DAY_SECONDS = 86_400

Values = Sequence[tuple[datetime, float | None]]
Format = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """A series of a chart: its name, the tone of its classes, and its values in order of time.

    All series of a chart have values for the same times, at equal distances.
    """

    name: str
    tone: str
    values: Values


@dataclass(frozen=True)
class Shape:
    """A series as drawn: the paths of its line, its area or bars, and the dots of values without neighbours."""

    tone: str
    line: str
    area: str
    dots: str = ""


@dataclass(frozen=True)
class Mark:
    """A deploy: where it is on the axis of time."""

    x: float
    name: str
    at: datetime


@dataclass(frozen=True)
class Chart:
    """A chart, which `operations/_charts.html` renders.

    `ticks` are the labels of the axis of values, the largest first; `times` those of the axis of time, of which each
    value has `step`. `rows` has the formatted values of all series, for the times in which there is one.
    """

    id: str
    title: str
    summary: str
    lines: Sequence[Line]
    shapes: Sequence[Shape]
    bars: Sequence[Shape]
    marks: Sequence[Mark]
    ticks: Sequence[str]
    times: Sequence[datetime]
    step: timedelta
    rows: Sequence[tuple[datetime, Sequence[str]]]

    @property
    def is_empty(self) -> bool:
        """Whether there is no value other than zero."""
        return not self.rows

    @property
    def data(self) -> dict[str, object]:
        """The values for the script that draws a chart to zoom into, with times in seconds."""
        return {
            "at": [at.timestamp() for at, _ in self.lines[0].values],
            "series": [
                {"name": line.name, "tone": line.tone, "values": [value for _, value in line.values]}
                for line in self.lines
            ],
            "marks": [mark.at.timestamp() for mark in self.marks],
        }


def number(value: float) -> str:
    """Return a number as axes and tables show it: `1,200`, `0.5`."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def seconds(value: float) -> str:
    """Return a duration as axes and tables show it: `250 ms`, `1.5 s`, `20 min`, `36 h`."""
    if value < 1:
        return f"{value * 1_000:.0f} ms"
    for limit, size, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if value < limit:
            return f"{value / size:.3g} {unit}"
    return f"{value / _DAY_SECONDS:.3g} d"


def line_chart(
    id: str,
    title: str,
    lines: Sequence[Line],
    *,
    show: Format = number,
    is_duration: bool = False,
    releases: Iterable[tuple[str, datetime]] = (),
) -> Chart:
    """Return a chart of lines; durations are in seconds, and `show` formats them."""
    largest = max((value or 0 for line in lines for _, value in line.values), default=0)
    top = _round_seconds(largest) if is_duration else _round_number(largest)
    return _chart(id, title, lines, top, show, releases, shapes=[_shape(line, top) for line in lines])


def bar_chart(
    id: str,
    title: str,
    lines: Sequence[Line],
    *,
    show: Format = number,
    releases: Iterable[tuple[str, datetime]] = (),
) -> Chart:
    """Return a chart of stacked bars, the first series at the bottom."""
    largest = max((sum(value or 0 for value in values) for _, values in _by_time(lines)), default=0)
    top = _round_number(largest)
    return _chart(id, title, lines, top, show, releases, bars=_bars(lines, top))


def sparkline(values: Sequence[float | None], width: float = 100.0, height: float = 24.0) -> str:
    """Return the path of a line without axes, in units of `width` by `height`; "" if all values are zero."""
    top = max((value or 0 for value in values), default=0)
    step = width / max(1, len(values) - 1)
    points = [(n * step, height - 1 - (height - 2) * (value or 0) / (top or 1)) for n, value in enumerate(values)]
    return _path(points) if top else ""


def _chart(
    id: str,
    title: str,
    lines: Sequence[Line],
    top: float,
    show: Format,
    releases: Iterable[tuple[str, datetime]],
    shapes: Sequence[Shape] = (),
    bars: Sequence[Shape] = (),
) -> Chart:
    times = [at for at, _ in lines[0].values]
    step = times[1] - times[0] if len(times) > 1 else timedelta(minutes=1)
    span = step * len(times)
    marks = [
        Mark(round(WIDTH * ((at - times[0]) / span), 1), name, at)
        for name, at in releases
        if times and times[0] <= at <= times[0] + span
    ]
    return Chart(
        id,
        title,
        _summary(lines, show),
        lines,
        shapes,
        bars,
        marks,
        ticks=[show(top), show(top / 2), "0"],
        times=[times[0] + span * quarter / 4 for quarter in range(5)] if times else [],
        step=step,
        rows=[
            (at, ["" if value is None else show(value) for value in values])
            for at, values in _by_time(lines)
            if any(values)
        ],
    )


def _by_time(lines: Sequence[Line]) -> list[tuple[datetime, list[float | None]]]:
    return [(at, [line.values[n][1] for line in lines]) for n, (at, _) in enumerate(lines[0].values)]


def _round_number(value: float) -> float:
    if value <= 2:
        return 2
    size = 10 ** math.floor(math.log10(value))
    return next(step * size for step in _ROUND if step * size >= value)


def _round_seconds(value: float) -> float:
    if value <= _ROUND_SECONDS[-1]:
        return next(step for step in _ROUND_SECONDS if step >= value)
    return math.ceil(value / _DAY_SECONDS) * _DAY_SECONDS


def _shape(line: Line, top: float) -> Shape:
    """Return the paths of a line, with gaps where it has no value, and of dots for values without neighbours."""
    runs: list[list[tuple[float, float]]] = [[]]
    for n, (_, value) in enumerate(line.values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append(((n + 0.5) * WIDTH / len(line.values), HEIGHT - (HEIGHT - 2) * value / top))
    long, dots = [run for run in runs if len(run) > 1], [run[0] for run in runs if len(run) == 1]
    area = "".join(f"{_path(run)}L{run[-1][0]:.1f} {HEIGHT:g}L{run[0][0]:.1f} {HEIGHT:g}Z" for run in long)
    return Shape(line.tone, "".join(map(_path, long)), area, "".join(f"M{x:.1f} {y:.1f}h0" for x, y in dots))


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _bars(lines: Sequence[Line], top: float) -> list[Shape]:
    """Return one path for all bars of a series, each above those of the series before."""
    width = WIDTH / max(1, len(lines[0].values))
    paths: list[list[str]] = [[] for _ in lines]
    for n, (_, values) in enumerate(_by_time(lines)):
        bottom = HEIGHT
        for path, value in zip(paths, values, strict=True):
            if value:
                height = max((HEIGHT - 2) * value / top, 1.5)  # one among thousands is visible
                path.append(
                    f"M{(n + 0.1) * width:.1f} {bottom:.1f}h{0.8 * width:.1f}v-{height:.1f}h-{0.8 * width:.1f}z"
                )
                bottom -= height
    return [Shape(line.tone, "", "".join(path)) for line, path in zip(lines, paths, strict=True)]


def _summary(lines: Sequence[Line], show: Format) -> str:
    """Return what the drawing shows: of each series the largest and the last value."""
    parts: list[str] = []
    for line in lines:
        known = [value for _, value in line.values if value is not None]
        if any(known):
            parts.append(f"{line.name}: at most {show(max(known))}, last {show(known[-1])}")
    return "; ".join(parts) + "." if parts else "No values."
