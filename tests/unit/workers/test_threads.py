"""The threads of a threaded worker, its jobs in flight, and the batch completer."""

from __future__ import annotations

import threading
from collections import deque
from datetime import UTC, datetime

from flask_belfry.execution.claim import Claim
from flask_belfry.workers.completer import BatchCompleter
from flask_belfry.workers.in_flight import InFlightJobs
from flask_belfry.workers.threads import JobThreads, Load

SECONDS = 20.0


def item(n: int, queue: str = "default", number: int = 1) -> Claim:
    return Claim(
        id=str(n),
        name="test.job",
        queue=queue,
        args={},
        number=number,
        attempt=1,
        interruptions=0,
        suspicion=0,
        max_attempts=1,
        timeout_seconds=60,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        worker="w",
        user_id=None,
        school_id=None,
        request_id=None,
    )


def one(waiting: deque[Claim]) -> list[Claim]:
    return [waiting.popleft()]


def test_jobs_that_block_get_all_threads():
    together = threading.Barrier(4)
    threads = JobThreads(4, one, lambda items: together.wait(SECONDS) and None)
    threads.start()
    threads.put(item(n) for n in range(8))
    assert threads.wait_until_done(SECONDS)
    threads.close()
    assert not together.broken


class FixedLoad(Load):
    """A load with a fixed value."""

    def __init__(self, *, is_full: bool) -> None:
        super().__init__()
        self.is_full = is_full

    def measure(self) -> bool:
        return self.is_full


def most_at_once(threads_load: Load) -> int:
    """Return how many of twelve jobs ran at the same time on six threads."""
    running, most, lock = 0, 0, threading.Lock()

    def run(items: list[Claim]) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.02)
        with lock:
            running -= 1

    threads = JobThreads(6, one, run, threads_load)
    threads.start()
    threads.put(item(n) for n in range(12))
    assert threads.wait_until_done(SECONDS)
    threads.close()
    return most


def test_a_busy_process_gets_no_more_threads_than_keep_it_busy():
    assert most_at_once(FixedLoad(is_full=True)) == 1


def test_an_idle_process_gets_all_threads():
    assert most_at_once(FixedLoad(is_full=False)) == 6


def test_threads_that_were_called_for_leave_again_when_the_process_is_busy():
    go_on, load = threading.Semaphore(0), FixedLoad(is_full=False)
    ran_on: list[str] = []

    def run(items: list[Claim]) -> None:
        ran_on.append(threading.current_thread().name)
        go_on.acquire(timeout=SECONDS)

    threads = JobThreads(4, one, run, load)
    threads.start()
    threads.put(item(n) for n in range(20))
    while len(ran_on) < 4:
        threading.Event().wait(0.001)
    load.is_full = True
    for ended in range(1, 17):
        go_on.release()
        # The first three that end stay idle, and the fourth goes on alone.
        while len(ran_on) < 4 + max(0, ended - 3):
            threading.Event().wait(0.001)
    assert len(set(ran_on[4:])) == 1
    go_on.release(20)
    assert threads.wait_until_done(SECONDS)
    threads.close()


def test_the_load_is_full_when_more_than_half_of_a_processor_is_used(monkeypatch):
    clock = {"now": 100.0, "computed": 5.0}
    monkeypatch.setattr("flask_belfry.workers.threads.time.monotonic", lambda: clock["now"])
    monkeypatch.setattr("flask_belfry.workers.threads.time.process_time", lambda: clock["computed"])
    load = Load()
    assert load.measure() is None  # nothing is known yet
    clock.update(now=100.01, computed=5.009)
    assert load.measure() is True
    clock.update(now=100.011, computed=5.009)
    assert load.measure() is True  # too short to tell
    clock.update(now=100.02, computed=5.012)
    assert load.measure() is False
    load.reset()
    assert load.measure() is None


def test_every_job_is_run_once_and_in_order_on_one_thread():
    ran: list[str] = []
    threads = JobThreads(1, one, lambda items: ran.extend(item.id for item in items))
    threads.start()
    for start in range(0, 100, 10):
        threads.put(item(n) for n in range(start, start + 10))
    assert threads.wait_until_done(SECONDS)
    threads.close()
    assert ran == [str(n) for n in range(100)]


def test_jobs_that_wait_are_passed_by_those_with_precedence():
    ran: list[str] = []
    go_on, begun = threading.Event(), threading.Event()

    def run(items: list[Claim]) -> None:
        begun.set()
        go_on.wait(SECONDS)
        ran.append(items[0].id)

    threads = JobThreads(1, one, run, precedence=lambda item: ("mail", "bulk").index(item.queue))
    threads.start()
    threads.put(item(n, "bulk") for n in (1, 2, 3))
    begun.wait(SECONDS)
    threads.put([item(4, "mail"), item(5, "mail"), item(6, "bulk")])
    go_on.set()
    assert threads.wait_until_done(SECONDS)
    threads.close()
    assert ran == ["1", "4", "5", "2", "3", "6"]


def test_what_escapes_from_a_job_ends_no_thread():
    ran: list[str] = []

    def run(items: list[Claim]) -> None:
        ran.append(items[0].id)
        raise SystemExit

    threads = JobThreads(1, one, run)
    threads.start()
    threads.put([item(1), item(2)])
    assert threads.wait_until_done(SECONDS)
    threads.close()
    assert ran == ["1", "2"]


def test_it_has_capacity_when_a_thread_is_idle_and_little_waits():
    go_on = threading.Semaphore(0)
    threads = JobThreads(1, one, lambda items: go_on.acquire(timeout=SECONDS) and None)
    threads.start()
    assert threads.wait_for_capacity(SECONDS)
    threads.put([item(1), item(2)])
    assert not threads.wait_for_capacity(0.05)
    go_on.release(2)
    assert threads.wait_for_capacity(SECONDS)
    threads.close()


def test_what_no_thread_can_take_is_withdrawn():
    go_on, begun = threading.Event(), threading.Event()

    def run(items: list[Claim]) -> None:
        begun.set()
        go_on.wait(SECONDS)

    threads = JobThreads(1, one, run)
    threads.start()
    threads.put([item(1), item(2), item(3)])
    begun.wait(SECONDS)
    assert sorted(left.id for left in threads.withdraw()) == ["2", "3"]
    go_on.set()
    assert threads.wait_until_done(SECONDS)
    threads.close()


def test_ends_that_come_during_a_commit_are_committed_together():
    commits: list[list[str]] = []
    first_begun, all_added = threading.Event(), threading.Event()

    def commit(done: list[tuple[Claim, object]]) -> None:
        first_begun.set()
        all_added.wait(SECONDS)
        commits.append([item.id for item, _ in done])

    group = BatchCompleter(commit)
    group.start()
    group.add(item(0), None)
    first_begun.wait(SECONDS)
    for n in range(1, 5):
        group.add(item(n), None)
    all_added.set()
    group.close()
    assert commits == [["0"], ["1", "2", "3", "4"]]


def test_a_commit_that_fails_does_not_keep_the_next_from_its_turn():
    commits: list[str] = []

    def commit(done: list[tuple[Claim, object]]) -> None:
        commits.append(done[0][0].id)
        raise RuntimeError

    group = BatchCompleter(commit)
    group.start()
    group.add(item(1), None)
    while not commits:
        threading.Event().wait(0.01)
    group.add(item(2), None)
    group.close()
    assert commits == ["1", "2"]


def test_a_claim_is_held_until_it_is_discarded_and_a_newer_one_stays():
    held = InFlightJobs()
    old, new = item(1), item(1, number=2)
    held.add([old, item(2, queue="mail")])
    held.add([new])
    held.discard([old])
    assert [claim.number for claim in held.claims() if claim.id == "1"] == [2]
    assert (held.by_queue["default"], held.by_queue["mail"], len(held)) == (1, 1, 2)
    held.discard([new])
    assert (held.by_queue["default"], len(held)) == (0, 1)


def test_a_thread_that_waits_for_capacity_is_woken_when_there_is_some():
    held = InFlightJobs()
    held.add([item(1)])
    timer = threading.Timer(0.05, lambda: held.discard(held.claims()))
    timer.start()
    held.wait_until_fewer(SECONDS)
    timer.join()
    assert len(held) == 0
