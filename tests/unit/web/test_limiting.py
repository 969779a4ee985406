"""Moving windows in memory, which count while the broker is unavailable."""

from __future__ import annotations

import threading

import pytest
import time_machine

from app.web import limiting
from app.web.limiting import Limit, LocalWindows

ITEM = Limit("few", 2, 60).item


@pytest.fixture
def clock():
    """The time, which a test moves."""
    with time_machine.travel("2026-03-01T12:00:00Z", tick=False) as coordinates:
        yield coordinates


def test_each_hit_is_released_when_its_own_window_has_passed(clock):
    windows = LocalWindows()
    assert windows.hit(ITEM, "ada")
    clock.shift(20)
    assert windows.hit(ITEM, "ada")
    assert not windows.hit(ITEM, "ada")
    assert not windows.test(ITEM, "ada")
    assert windows.get_window_stats(ITEM, "ada").reset_time == limiting.time.time() + 40
    assert windows.hit(ITEM, "bob")
    clock.shift(40)
    assert [windows.hit(ITEM, "ada") for _ in range(2)] == [True, False]
    windows.clear(ITEM, "ada")
    assert [windows.hit(ITEM, "ada") for _ in range(3)] == [True, True, False]


def test_keys_whose_windows_have_passed_are_dropped(clock, monkeypatch):
    monkeypatch.setattr(limiting, "SWEPT_KEYS", 3)
    windows = LocalWindows()
    for key in "abc":
        windows.hit(ITEM, key)
    clock.shift(60)
    assert windows.test(ITEM, "a")
    windows.hit(ITEM, "d")
    assert list(windows._expirations) == [ITEM.key_for("d")]
    assert windows.hit(ITEM, "a")


def test_counting_in_memory_starts_no_thread():
    before = threading.active_count()
    LocalWindows().hit(ITEM, "ada")
    assert threading.active_count() == before
