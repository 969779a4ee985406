"""How many jobs a worker takes at once."""

from __future__ import annotations

import pytest

from jobs.engine.sizing import BatchSize


@pytest.mark.parametrize(
    ("mean_seconds", "idle_threads", "taken"),
    [
        (None, 16, 16),  # nothing is known yet: one for each
        (30.0, 16, 16),  # long jobs: others shall have some
        (30.0, 1, 1),
        (0.05, 16, 32),
        (0.001, 16, 100),
        (0.001, 1, 7),  # one thread's share of the batch
        (0.0, 4, 28),
    ],
)
def test_batches_follow_the_length_of_jobs(mean_seconds, idle_threads, taken):
    size = BatchSize(limit=100, threads=16)
    if mean_seconds is not None:
        size.learn(10, 10 * mean_seconds)
    assert size.next(idle_threads) == taken


def test_the_mean_follows_what_is_seen():
    size = BatchSize(limit=100, threads=1)
    size.learn(1, 10.0)
    assert size.next(1) == 1
    for _ in range(60):
        size.learn(1, 0.0)
    assert size.next(1) == 100


def test_a_batch_is_never_larger_than_its_limit():
    assert BatchSize(limit=3, threads=16).next(16) == 3
