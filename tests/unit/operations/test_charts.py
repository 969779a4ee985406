"""Charts: round axes, paths within the drawing, gaps, deploys, and a table with the same values."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from flask_belfry.operations import charts
from flask_belfry.operations.charts import Line, Values

START = datetime(2030, 5, 6, 10, tzinfo=UTC)


def values(*numbers: float | None) -> Values:
    """A value for each minute."""
    return [(START + timedelta(minutes=n), number) for n, number in enumerate(numbers)]


@pytest.mark.parametrize(
    ("largest", "ticks"),
    [
        (0, ["2", "1", "0"]),
        (1, ["2", "1", "0"]),
        (3, ["4", "2", "0"]),
        (61, ["100", "50", "0"]),
        (1_500, ["2,000", "1,000", "0"]),
    ],
)
def test_the_axis_of_numbers_is_round(largest: float, ticks: list[str]):
    assert charts.line_chart("a", "A", [Line("a", "x", values(largest))]).ticks == ticks


@pytest.mark.parametrize(
    ("largest", "ticks"),
    [
        (0.07, ["100 ms", "50 ms", "0"]),
        (61, ["2 min", "60 s", "0"]),
        (90_000, ["2 d", "24 h", "0"]),
    ],
)
def test_the_axis_of_durations_is_round(largest: float, ticks: list[str]):
    chart = charts.line_chart("a", "A", [Line("a", "x", values(largest))], show=charts.seconds, is_duration=True)
    assert chart.ticks == ticks


def test_a_line_stays_within_the_drawing_and_has_gaps_and_dots():
    [shape] = charts.line_chart("a", "A", [Line("a", "x", values(4, 2, None, 1, None))]).shapes
    assert (shape.line, shape.dots) == ("M60.0 2.0L180.0 76.0", "M420.0 113.0h0")
    assert shape.area == "M60.0 2.0L180.0 76.0L180.0 150L60.0 150Z"


def test_bars_are_stacked_and_one_among_many_is_visible():
    done, failed = Line("done", "ok", values(1_000, 0)), Line("failed", "bad", values(1, 3))
    bars = charts.bar_chart("a", "A", [done, failed]).bars
    assert [(bar.tone, bar.line) for bar in bars] == [("ok", ""), ("bad", "")]
    assert bars[0].area == "M30.0 150.0h240.0v-74.0h-240.0z"
    # On top of the others, and on the ground where there are none.
    assert bars[1].area == "M30.0 76.0h240.0v-1.5h-240.0zM330.0 150.0h240.0v-1.5h-240.0z"


def test_the_table_has_the_values_of_all_times_with_one():
    chart = charts.line_chart("a", "A", [Line("a", "x", values(0, 1.5, None)), Line("b", "y", values(0, None, 1_200))])
    assert chart.rows == [(START + timedelta(minutes=1), ["1.5", ""]), (START + timedelta(minutes=2), ["", "1,200"])]
    assert chart.summary == "a: at most 1.5, last 1.5; b: at most 1,200, last 1,200."
    assert not chart.is_empty
    assert charts.bar_chart("a", "A", [Line("a", "x", values(0, 0))]).is_empty


def test_deploys_are_marked_where_they_were():
    at = {
        "before": START - timedelta(minutes=1),
        "new": START + timedelta(minutes=1),
        "later": START + timedelta(hours=1),
    }
    chart = charts.bar_chart("a", "A", [Line("a", "x", values(1, 1, 1, 1))], releases=at.items())
    assert [(mark.name, mark.x) for mark in chart.marks] == [("new", 150.0)]
    assert chart.times == [START + timedelta(minutes=n) for n in range(5)]


def test_a_sparkline_spans_its_box():
    assert charts.sparkline([0, 5, 10]) == "M0.0 23.0L50.0 12.0L100.0 1.0"
    assert charts.sparkline([0, None, 0]) == ""
    assert re.fullmatch(r"M0\.0 1\.0", charts.sparkline([3]))
