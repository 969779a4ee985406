"""The decisions about limited, paused and expired jobs, and the start times of a rate, as tables of values."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

import tests.domain  # noqa: F401 - registers the jobs
from flask_belfry.execution.admission import Decisions
from flask_belfry.execution.limits import start_after

NOW = datetime(2030, 5, 6, 10, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def row(name: str, **values):
    defaults = {"limit_key": "k", "rate_slot_at": None, "expires_at": None, "is_paused": False}
    return SimpleNamespace(id=name, name=name, **{**defaults, **values})


def decided(*rows, running: int = 0, next_start_at: datetime | None = None) -> Decisions:
    decisions = Decisions(Counter(k=running), {"k": next_start_at})
    for each in rows:
        decisions.add(each, NOW)
    return decisions


@pytest.mark.parametrize(
    ("next_start_at", "per_minute", "start_at", "following"),
    [
        (None, 60, NOW, NOW + SECOND),
        (NOW - 3600 * SECOND, 60, NOW, NOW + SECOND),  # an idle hour is not saved up
        (NOW, 60, NOW, NOW + SECOND),
        (NOW + 5 * SECOND, 60, NOW + 5 * SECOND, NOW + 6 * SECOND),
        (NOW, 1, NOW, NOW + 60 * SECOND),
        (NOW, 600, NOW, NOW + timedelta(milliseconds=100)),
        (NOW, 11, NOW, NOW + timedelta(microseconds=5_454_546)),  # 5,454,545.45…
    ],
)
def test_start_times_are_evenly_spaced_and_idle_time_is_not_saved_up(next_start_at, per_minute, start_at, following):
    assert start_after(next_start_at, per_minute, NOW) == (start_at, following)


@pytest.mark.parametrize("per_minute", [1, 7, 11, 13, 59, 600, 1013])
def test_no_60_seconds_have_more_start_times_than_the_limit(per_minute):
    starts: list[datetime] = []
    following = None
    for _ in range(3 * per_minute):
        start_at, following = start_after(following, per_minute, NOW)
        starts.append(start_at)
    for first, beyond in zip(starts, starts[per_minute:], strict=False):
        assert beyond - first >= 60 * SECOND


@pytest.mark.parametrize(("running", "admitted", "without_slot"), [(0, 4, 1), (3, 1, 4), (4, 0, 5), (9, 0, 5)])
def test_as_many_are_admitted_as_slots_are_free(running, admitted, without_slot):
    decisions = decided(*[row("test.limited")] * 5, running=running)
    assert (len(decisions.admitted), len(decisions.without_slot)) == (admitted, without_slot)


def test_each_job_name_of_a_shared_key_has_its_own_limit_and_unknown_names_run_freely():
    names = ["test.limited_more", "test.limited", "test.act", "test.of_an_old_version"]
    decisions = decided(*map(row, names), running=2)
    assert decisions.admitted == names[1:]
    assert decisions.without_slot == names[:1]
    assert decisions.running["k"] == 5


def test_what_exceeds_the_rate_starts_later_one_after_the_other():
    decisions = decided(*[row("test.paced")] * 3)
    assert len(decisions.admitted) == 1
    assert [start_at - NOW for _, start_at in decisions.scheduled] == [SECOND / 10, SECOND / 5]
    assert decisions.next_starts["k"] == NOW + 3 * SECOND / 10


def test_a_start_time_that_has_come_is_not_counted_again():
    later = NOW + 60 * SECOND
    decisions = decided(row("test.paced", rate_slot_at=NOW), next_start_at=later)
    assert decisions.admitted == ["test.paced"]
    assert decisions.next_starts["k"] == later


def test_a_job_without_a_slot_gets_no_start_time():
    decisions = decided(row("test.paced_alone"), running=1)
    assert decisions.without_slot == ["test.paced_alone"]
    assert decisions.next_starts["k"] is None


@pytest.mark.parametrize("is_paused", [False, True])
def test_an_expired_job_is_cancelled_paused_or_not(is_paused):
    expired, not_yet = (row("test.limited", expires_at=at, is_paused=is_paused) for at in (NOW, NOW + SECOND))
    decisions = decided(expired, not_yet)
    assert decisions.expired == [expired]
    assert (decisions.paused, decisions.admitted) == (([not_yet], []) if is_paused else ([], ["test.limited"]))


def test_a_job_that_needs_no_slot_passes_its_turn_on():
    rows = [row("test.limited", is_paused=True), row("test.limited", expires_at=NOW), *[row("test.paced")] * 2]
    assert decided(*rows, row("test.act", limit_key=None, is_paused=True)).unused_turns() == {"k": 3}
