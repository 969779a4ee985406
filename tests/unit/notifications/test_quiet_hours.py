"""Quiet hours over the transitions of daylight saving time: tables, and properties over zones and days."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.notifications.quiet_hours import QuietHours, first_moment, last_moment

# Among them: half an hour (Lord Howe), at midnight (Havana, Beirut), in the other direction (Dublin), none (Kolkata),
# and a skipped day (Apia, 30 December 2011).
ZONES = (
    *("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Beirut", "Europe/Dublin"),
    *("Asia/Kolkata", "Pacific/Apia", "UTC"),
)
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
NIGHT = QuietHours(time(22), time(7))
TO_THE_MIDDLE = QuietHours(time(22), time(2, 30))
FROM_THE_MIDDLE = QuietHours(time(2, 30), time(5))
NOON = QuietHours(time(12), time(13, 30))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# On 2026-03-29 Berlin's clocks go from 02:00 (01:00 UTC) to 03:00; on 2026-10-25 from 03:00 (01:00 UTC) back to 02:00.
CASES = [
    ("before they begin", NIGHT, "2026-11-24T20:59:59", None),
    ("from their first moment", NIGHT, "2026-11-24T21:00", "2026-11-25T06:00"),
    ("after midnight", NIGHT, "2026-11-25T02:00", "2026-11-25T06:00"),
    ("not at their end", NIGHT, "2026-11-25T06:00", None),
    ("of one day", NOON, "2026-11-25T11:30", "2026-11-25T12:30"),
    ("of one day, in the evening", NOON, "2026-11-25T20:00", None),
    ("a night that is an hour shorter", NIGHT, "2026-03-28T22:00", "2026-03-29T05:00"),
    ("a night that is an hour longer", NIGHT, "2026-10-24T21:00", "2026-10-25T06:00"),
    ("until a time that is skipped", TO_THE_MIDDLE, "2026-03-28T22:00", "2026-03-29T01:00"),
    ("after a time that is skipped", TO_THE_MIDDLE, "2026-03-29T01:00", None),
    ("until a time that comes twice", TO_THE_MIDDLE, "2026-10-24T22:00", "2026-10-25T00:30"),
    ("not again when the clock was put back", TO_THE_MIDDLE, "2026-10-25T01:15", None),
    ("from a time that is skipped", FROM_THE_MIDDLE, "2026-03-29T01:00", "2026-03-29T03:00"),
    ("from a time that comes twice", FROM_THE_MIDDLE, "2026-10-25T01:15", "2026-10-25T04:00"),
]


@pytest.mark.parametrize(("name", "hours", "now", "end"), CASES, ids=[case[0] for case in CASES])
def test_quiet_hours_end_at_the_first_moment_of_their_end(name, hours, now, end):
    assert hours.end(utc(now), ZoneInfo("Europe/Berlin")) == (end and utc(end))


def test_a_time_of_a_day_that_a_zone_skipped_is_the_first_moment_after_it():
    assert first_moment(date(2011, 12, 30), time(7), ZoneInfo("Pacific/Apia")) == utc("2011-12-30T10:00")


def test_the_last_moment_is_not_after_now():
    zone = ZoneInfo("Europe/Berlin")
    assert last_moment(utc("2026-11-25T05:59"), time(7), zone) == utc("2026-11-24T06:00")
    assert last_moment(utc("2026-11-25T06:00"), time(7), zone) == utc("2026-11-25T06:00")


zones = st.sampled_from(ZONES).map(ZoneInfo)
clocks = st.builds(time, st.integers(0, 23), st.integers(0, 59))
moments = st.integers(0, 4 * 365 * 24 * 60).map(lambda minutes: BEGIN + timedelta(minutes=minutes))


@st.composite
def transitions(draw: st.DrawFn) -> tuple[ZoneInfo, datetime]:
    """A zone, and a moment within a day of one of its transitions."""
    zone, year = draw(zones), draw(st.integers(2024, 2027))
    hours = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=6 * each) for each in range(4 * 365)]
    changes = [
        begin
        for begin, end in pairwise(hours)
        if begin.astimezone(zone).utcoffset() != end.astimezone(zone).utcoffset()
    ]
    assume(changes)
    return zone, draw(st.sampled_from(changes)) + timedelta(minutes=draw(st.integers(-1_440, 1_440)))


near_transitions = st.one_of(transitions(), st.tuples(zones, moments))


@given(near_transitions, clocks)
def test_no_earlier_moment_of_the_day_shows_the_time(given_moment, clock):
    zone, now = given_moment
    wanted = datetime.combine(now.astimezone(zone).date(), clock)
    moment = first_moment(wanted.date(), clock, zone)
    shown = moment.astimezone(zone).replace(tzinfo=None)
    second_before = (moment - timedelta(seconds=1)).astimezone(zone).replace(tzinfo=None)
    assert shown >= wanted
    assert second_before < wanted


@given(near_transitions, clocks)
def test_a_time_of_each_day_has_passed_within_a_day(given_moment, clock):
    zone, now = given_moment
    last = last_moment(now, clock, zone)
    assert now - timedelta(hours=25) <= last <= now


@given(near_transitions, clocks, clocks)
def test_a_hold_ends_within_a_day_when_the_clock_shows_the_end_or_has_skipped_it(given_moment, start, until):
    zone, now = given_moment
    assume(start != until)
    end = QuietHours(start, until).end(now, zone)
    if end is None:
        return
    shown = end.astimezone(zone)
    assert now < end <= now + timedelta(hours=25)
    is_skipped = (end - timedelta(seconds=1)).astimezone(zone).utcoffset() != shown.utcoffset()
    assert shown.time() == until or is_skipped


@given(near_transitions, clocks, clocks)
def test_on_days_without_a_transition_the_clock_decides(given_moment, start, until):
    zone, now = given_moment
    assume(start != until)
    local = now.astimezone(zone)
    offsets = {(now + timedelta(hours=hours)).astimezone(zone).utcoffset() for hours in range(-48, 49)}
    assume(len(offsets) == 1)
    clock = local.time()
    is_quiet = start <= clock < until if start < until else clock >= start or clock < until
    assert (QuietHours(start, until).end(now, zone) is not None) == is_quiet
