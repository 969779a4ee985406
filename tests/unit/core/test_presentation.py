"""How times and spans read on pages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from flask import Flask

from flask_belfry.core.presentation import ago, breakable, date_if_another, duration, rounded_up

NOW = datetime(2030, 12, 10, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _in_berlin_on_a_day_in_december() -> Iterator[None]:
    app = Flask(__name__)
    app.config["TIMEZONE"] = "Europe/Berlin"
    with app.app_context(), time_machine.travel(NOW, tick=False):
        yield


@pytest.mark.parametrize(
    ("away", "expected"),
    [
        (timedelta(seconds=1), "just now"),
        (timedelta(seconds=-90), "1 min ago"),
        (timedelta(hours=23, minutes=59), "in 23 h"),
        (timedelta(days=18), "in 18 d, 28 Dec"),
        (timedelta(days=30), "in 30 d, 9 Jan 2031"),
        # 23:30 UTC on the eighth is the ninth in Berlin.
        (timedelta(days=-1, hours=-12, minutes=-30), "1 d ago, 9 Dec"),
    ],
)
def test_an_age_of_a_day_and_more_has_its_date(away: timedelta, expected: str) -> None:
    assert ago(NOW + away) == expected
    assert ago(NOW + away, dated=False) == expected.partition(",")[0]


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (timedelta(milliseconds=8), "8 ms"),
        (timedelta(hours=23, minutes=59), "23 h 59 min"),
        (timedelta(days=18, hours=13, minutes=7), "18 d 13 h"),
    ],
)
def test_days_are_not_counted_in_hours(span: timedelta, expected: str) -> None:
    assert duration(span) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.2, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (61, "2 minutes"),
        (899.5, "15 minutes"),
        (7_201, "3 hours"),
    ],
)
def test_a_wait_is_never_said_to_be_shorter_than_it_is(seconds: float, expected: str) -> None:
    assert rounded_up(seconds) == expected


def test_a_step_of_another_day_than_the_one_before_has_its_date() -> None:
    later = NOW + timedelta(days=18)
    assert date_if_another(NOW) == ""
    assert date_if_another(later) == date_if_another(later, NOW) == "28 Dec"
    assert date_if_another(later + timedelta(hours=1), later) == ""


def test_a_long_name_breaks_at_its_joints_and_markup_in_it_is_escaped() -> None:
    assert breakable("reservations.sweep_overdue") == "reservations.<wbr>sweep_<wbr>overdue"
    assert breakable("It failed. <b>") == "It failed. &lt;b&gt;"
