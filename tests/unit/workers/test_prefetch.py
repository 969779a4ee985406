"""How much a worker prefetches, and how many records a chunk has."""

from __future__ import annotations

import pytest

from flask_belfry.workers.prefetch import HAND_OVER_SECONDS, MeanTime, chunk_size, prefetch_limit, smallest_fetch


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
    assert prefetch_limit(job_seconds, threads=16, batch=200) == held


@pytest.mark.parametrize(("job_seconds", "taken"), [(None, 16), (1.0, 16), (0.01, 80), (0.001, 200)])
def test_a_worker_takes_over_slots_for_a_twentieth_of_a_second(job_seconds, taken):
    assert prefetch_limit(job_seconds, threads=16, batch=200, seconds=HAND_OVER_SECONDS) == taken


def test_every_thread_may_have_a_job_whatever_the_limit():
    assert prefetch_limit(0.0, threads=16, batch=3) == 16


@pytest.mark.parametrize(
    ("wait_seconds", "taken"),
    [
        (None, 10),  # nothing is known yet
        (2.0, 1),  # a slow server: no job waits for the others of its call
        (0.05, 5),  # a quarter of a second
        (0.001, 50),
        (0.0, 50),
    ],
)
def test_one_call_takes_a_quarter_of_a_second_of_waiting(wait_seconds, taken):
    assert chunk_size(wait_seconds, limit=50) == taken


def test_one_call_takes_a_whole_share_of_what_waits_for_all_threads():
    assert chunk_size(0.05, limit=50, share=12) == 12
    assert chunk_size(0.001, limit=50, share=12) == 50


def test_one_call_never_takes_more_than_its_chunk():
    assert chunk_size(None, limit=3) == 3
    assert chunk_size(None, limit=3, share=20) == 3


def test_the_mean_follows_recent_measurements():
    job_time = MeanTime()
    job_time.learn(10, 100.0)
    assert job_time.seconds == 10.0
    for _ in range(60):
        job_time.learn(1, 0.0)
    assert job_time.seconds < 0.001


def test_a_worker_fetches_more_short_jobs_when_half_of_those_that_wait_have_run():
    assert smallest_fetch(200, threads=16, batch=200) == 92
    assert smallest_fetch(160, threads=16, batch=200) == 1  # each takes as long as a claim
    assert smallest_fetch(16, threads=16, batch=16) == 1
