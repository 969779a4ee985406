"""The run times of schedules: pure functions, tested as tables, also at both transitions of daylight saving time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_belfry.scheduler import ScheduleError
from flask_belfry.scheduler.cron import Cron, Every, last_tick, ticks_between


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ticks(timing, after: str, count: int) -> list[str]:
    found, moment = [], utc(after)
    for _ in range(count):
        moment = timing.next_tick(moment)
        assert moment.second == 0
        found.append(moment.strftime("%m-%d %H:%M"))
    return found


BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"

# On 2026-03-29 Berlin's clocks go from 02:00 (01:00 UTC) to 03:00; on 2026-10-25 from 03:00 (01:00 UTC) back to 02:00.
CASES = [
    ("a daily line in UTC", Cron("0 3 * * *"), "2026-11-21T00:00", ["11-21 03:00", "11-22 03:00"]),
    ("the tick itself is not after itself", Cron("0 3 * * *"), "2026-11-21T03:00", ["11-22 03:00"]),
    (
        "a local hour in winter and in summer",
        Cron("0 7 * * *", BERLIN),
        "2026-03-28T00:00",
        ["03-28 06:00", "03-29 05:00"],
    ),
    (
        "a skipped time runs right after the gap",
        Cron("30 2 * * *", BERLIN),
        "2026-03-28T12:00",
        ["03-29 01:00", "03-30 00:30"],
    ),
    (
        "a doubled time runs the first time only",
        Cron("30 2 * * *", BERLIN),
        "2026-10-24T12:00",
        ["10-25 00:30", "10-26 01:30"],
    ),
    (
        "a wildcard follows the real clock over the gap",
        Cron("0 * * * *", BERLIN),
        "2026-03-28T23:30",
        ["03-29 00:00", "03-29 01:00", "03-29 02:00"],
    ),
    (
        "a wildcard follows the real clock through the doubled hour",
        Cron("*/30 * * * *", BERLIN),
        "2026-10-24T23:45",
        ["10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30", "10-25 02:00"],
    ),
    ("a time before the gap is untouched", Cron("59 1 * * *", BERLIN), "2026-03-28T12:00", ["03-29 00:59"]),
    (
        "the first moment after the gap runs once",
        Cron("0 3 * * *", BERLIN),
        "2026-03-28T12:00",
        ["03-29 01:00", "03-30 01:00"],
    ),
    (
        "a wildcard does not catch up on what the gap skipped",
        Cron("15 * * * *", BERLIN),
        "2026-03-28T23:30",
        ["03-29 00:15", "03-29 01:15"],
    ),
    (
        "a skipped time and the first after the gap are one",
        Cron("*/30 2,3 * * *", BERLIN),
        "2026-03-28T12:00",
        ["03-29 01:00", "03-29 01:30", "03-30 00:00"],
    ),
    (
        "from within the hour before the clock goes back",
        Cron("*/30 * * * *", BERLIN),
        "2026-10-25T00:40",
        ["10-25 01:00", "10-25 01:30"],
    ),
    ("a gap of two hours", Cron("10 2 * * *", "Antarctica/Troll"), "2026-03-28T12:00", ["03-29 01:00", "03-30 00:10"]),
    ("a gap of half an hour", Cron("10 2 * * *", LORD_HOWE), "2026-10-03T00:00", ["10-03 15:30", "10-04 15:10"]),
    ("the year's last minute", Cron("59 23 31 12 *"), "2026-12-31T23:59", ["12-31 23:59"]),
    ("another zone's gap", Cron("30 2 * * *", NEW_YORK), "2026-03-07T12:00", ["03-08 07:00", "03-09 06:30"]),
    ("a weekday", Cron("0 9 * * 1"), "2026-11-21T00:00", ["11-23 09:00", "11-30 09:00"]),
    ("the 29th of February", Cron("0 0 29 2 *"), "2026-11-21T00:00", ["02-29 00:00"]),
    ("a gap at midnight", Cron("0 0 * * *", "America/Santiago"), "2026-09-05T12:00", ["09-06 04:00", "09-07 03:00"]),
    ("every five minutes", Every(300), "2026-11-21T10:02", ["11-21 10:05", "11-21 10:10"]),
    ("every five minutes, on the tick", Every(300), "2026-11-21T10:05", ["11-21 10:10"]),
]


@pytest.mark.parametrize(("timing", "after", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_ticks(timing, after, expected):
    assert ticks(timing, after, len(expected)) == expected


@pytest.mark.parametrize(
    ("timing", "words"),
    [
        (Every(300), "every 5 minutes"),
        (Every(60), "every minute"),
        (Every(7200), "every 2 hours"),
        (Every(90), "every 90 seconds"),
        (Every(0.5), "every 0.5 seconds"),
        (Cron("17 3 * * *"), "at 03:17 every day"),
        (Cron("0 9 * * 1"), "at 09:00 on Monday"),
    ],
)
def test_timings_in_words(timing, words):
    assert timing.describe() == words


@pytest.mark.parametrize(
    "line", ["", "* * * *", "61 * * * *", "0 3 * * * *", "@daily", "nonsense", "R R * * *", "0 0 30 2 *"]
)
def test_a_wrong_cron_line_is_refused(line):
    with pytest.raises(ScheduleError, match="cron must have five fields"):
        Cron(line)


def test_days_and_months_have_names():
    assert ticks(Cron("0 3 * mar,APR fri"), "2026-03-26T04:00", 2) == ["03-27 03:00", "04-03 03:00"]


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_wrong_interval_is_refused(seconds):
    with pytest.raises(ScheduleError, match="every must be more than 0 seconds"):
        Every(seconds)


TIMINGS = st.sampled_from(
    [
        Cron("*/15 * * * *", BERLIN),
        Cron("30 2 * * *", BERLIN),
        Cron("5 */2 * * *", NEW_YORK),
        Cron("10 2 * * *", LORD_HOWE),
        Cron("0 9,10 * * 1"),
        Every(7),
    ]
)


@settings(deadline=None)
@given(TIMINGS, st.integers(0, 366 * 24 * 60))
def test_ticks_only_move_forward_and_do_not_depend_on_when_one_asks(timing, minutes):
    start = utc("2026-01-01T00:00") + timedelta(minutes=minutes)
    found = ticks_between(timing, start, start + timedelta(days=3), 50)
    assert all(earlier < later for earlier, later in pairwise(found))
    for earlier, later in pairwise(found):
        middle = earlier + (later - earlier) / 2
        assert timing.next_tick(middle) == later


@settings(deadline=None)
@given(TIMINGS, st.integers(0, 366 * 24 * 60), st.integers(0, 14 * 24 * 3600))
def test_the_newest_tick_is_found_without_counting_them_all(timing, minutes, seconds):
    first = timing.next_tick(utc("2026-01-01T00:00") + timedelta(minutes=minutes))
    until = first + timedelta(seconds=seconds)
    newest = last_tick(timing, first, until)
    assert first <= newest <= until < timing.next_tick(newest)
