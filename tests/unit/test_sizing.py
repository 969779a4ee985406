"""How much a worker takes at once."""

from __future__ import annotations

import pytest

from flask_belfry.workers.prefetch import Prefetch, holding, unit


def pace(mean_seconds: float | None) -> Prefetch:
    known = Prefetch()
    if mean_seconds is not None:
        known.learn(10, 10 * mean_seconds)
    return known


@pytest.mark.parametrize(
    ("job_seconds", "held"),
    [
        (None, 16),  # nothing is known yet: one for each thread
        (30.0, 16),  # long jobs: others shall have some
        (0.1, 80),  # half a second of work for each thread
        (0.001, 200),
        (0.0, 200),
    ],
)
def test_a_worker_holds_half_a_second_of_work(job_seconds, held):
    assert holding(pace(job_seconds), threads=16, limit=200) == held


def test_every_thread_may_have_a_job_whatever_the_limit():
    assert holding(pace(0.0), threads=16, limit=3) == 16


@pytest.mark.parametrize(
    ("wait_seconds", "taken"),
    [
        (None, 10),  # nothing is known yet
        (2.0, 1),  # a slow server: nobody waits for the others of its call
        (0.05, 5),  # a quarter of a second
        (0.001, 50),
        (0.0, 50),
    ],
)
def test_one_call_takes_a_quarter_of_a_second_of_waiting(wait_seconds, taken):
    assert unit(pace(wait_seconds), limit=50) == taken


def test_one_call_never_takes_more_than_its_chunk():
    assert unit(pace(None), limit=3) == 3


def test_the_mean_follows_what_is_seen():
    seen = pace(10.0)
    for _ in range(60):
        seen.learn(1, 0.0)
    assert seen.mean_seconds is not None
    assert seen.mean_seconds < 0.001
