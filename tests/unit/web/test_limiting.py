"""Moving windows in memory, which count while the broker is unavailable."""

from __future__ import annotations

import threading

import pytest
import time_machine
from limits import WindowStats

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
    assert windows.get_window_stats(ITEM, "bob").remaining == 1


def test_hits_are_released_together_when_all_windows_have_passed(clock):
    windows = LocalWindows()
    assert [windows.hit(ITEM, "ada") for _ in range(3)] == [True, True, False]
    clock.shift(60)
    assert windows.get_window_stats(ITEM, "ada") == WindowStats(limiting.time.time(), 2)


def test_limits_of_different_names_are_counted_separately(clock):
    windows = LocalWindows()
    assert [windows.hit(ITEM, "ada") for _ in range(2)] == [True, True]
    assert windows.test(Limit("other", 2, 60).item, "ada")


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
    clock.shift(60)
    windows.hit(ITEM, "b")
    assert len(windows._expirations) == 3, "no more than SWEPT_KEYS: not swept"


def test_a_key_with_a_current_hit_is_not_dropped(clock, monkeypatch):
    monkeypatch.setattr(limiting, "SWEPT_KEYS", 1)
    windows = LocalWindows()
    windows.hit(ITEM, "a")
    clock.shift(30)
    windows.hit(ITEM, "a")
    clock.shift(40)
    windows.hit(ITEM, "b")
    assert [windows.hit(ITEM, "a") for _ in range(2)] == [True, False]


def test_keys_are_not_swept_again_until_their_number_has_doubled(clock, monkeypatch):
    monkeypatch.setattr(limiting, "SWEPT_KEYS", 2)
    windows = LocalWindows()
    for key in "abc":
        windows.hit(ITEM, key)
    clock.shift(60)
    for key in "def":
        windows.hit(ITEM, key)
    assert len(windows._expirations) == 6
    windows.hit(ITEM, "g")
    assert len(windows._expirations) == 4


def test_counting_in_memory_starts_no_thread():
    before = threading.active_count()
    LocalWindows().hit(ITEM, "ada")
    assert threading.active_count() == before
