"""The threaded worker: it claims jobs in batches and runs them on threads of one process."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from flask_belfry.db import db
from flask_belfry.execution import attempts, executor
from flask_belfry.execution import claim as claims
from flask_belfry.execution.claim import Claim
from flask_belfry.execution.journal import journal
from flask_belfry.execution.time_limits import TimeLimits
from flask_belfry.outbox import UnknownJobError
from flask_belfry.outbox.registry import definition
from flask_belfry.workers.backlogs import Fetched
from flask_belfry.workers.completer import BatchCompleter, Completion
from flask_belfry.workers.forks import reset_signals_in_forks
from flask_belfry.workers.pool import EXIT_STUCK
from flask_belfry.workers.registration import CHECK_SECONDS, POLL_SECONDS
from flask_belfry.workers.threads import JobThreads
from flask_belfry.workers.worker import EngineWorker

log = structlog.get_logger(__name__)

# The jobs in flight should keep the threads busy for this long: enough to fetch more meanwhile, and little to lose.
PREFETCH_SECONDS = 0.5
# One call of a chunk function should wait for others for this long: each call has a cost of its own.
CHUNK_SECONDS = 0.25
# The first size of a chunk. With one for each thread, their contention would be mistaken for a slow server.
FIRST_CHUNK = 10


class MeanTime:
    """The moving mean of a duration; `seconds` is None until the first measurement."""

    SMOOTHING = 0.2

    def __init__(self) -> None:
        self.seconds: float | None = None

    def learn(self, count: int, seconds: float) -> None:
        """Add a measurement: `count` in a row took `seconds`."""
        mean = seconds / count
        known = mean if self.seconds is None else self.seconds
        self.seconds = known + self.SMOOTHING * (mean - known)


def prefetch_limit(mean_seconds: float | None, threads: int, batch: int) -> int:
    """Return how many jobs a worker may have in flight: one for each thread, and more when they are short.

    Args:
        mean_seconds: how long one job takes on its thread (Little's law).
        threads: how many the worker has (WORKER_THREADS).
        batch: the most jobs (WORKER_BATCH), which a worker with more threads exceeds.
    """
    if mean_seconds is None:
        return threads
    return max(threads, min(batch, _fitting(PREFETCH_SECONDS * threads, mean_seconds)))


def chunk_size(mean_wait_seconds: float | None, limit: int) -> int:
    """Return how many records one call of a chunk function gets: few of what waits for long, so that threads share it.

    Args:
        mean_wait_seconds: how long the process waits for one record, computing nothing. Waiting for other jobs of the
            process does not count: sharing them among more threads would make none of them faster.
        limit: the `chunk` of the job function.
    """
    size = FIRST_CHUNK if mean_wait_seconds is None else _fitting(CHUNK_SECONDS, mean_wait_seconds)
    return max(1, min(limit, size))


def _fitting(seconds: float, mean_seconds: float) -> int:
    return math.floor(seconds / max(mean_seconds, 1e-6))


class ThreadedWorker(EngineWorker):
    """Claims each batch of ids with one UPDATE, and runs it on WORKER_THREADS threads."""

    kind = "light"
    claims_quarantined = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = self._app.config
        self.batch: int = settings["WORKER_BATCH"]
        # By queue: long jobs in one must not keep the worker from fetching more of another.
        self._job_times = {name: MeanTime() for name in self.queue_names()}
        self._wait_times: defaultdict[str, MeanTime] = defaultdict(MeanTime)  # by job name
        self._time_limits = TimeLimits()
        self._quarantined: list[str] = []
        ranks = {name: rank for rank, name in enumerate(self.queue_names())}
        self._threads = JobThreads(
            settings["WORKER_THREADS"], self._cut, self._run, precedence=lambda item: ranks.get(item.queue, 0)
        )
        self._completer = BatchCompleter(self._complete)
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def _start(self, logging_level: str | None) -> None:
        super()._start(logging_level)
        reset_signals_in_forks()
        self._watchdog.start()
        self._completer.start()
        self._threads.start()

    def _close(self) -> None:
        self._stopping.set()
        self._watchdog.join()
        super()._close()

    def _is_ready(self) -> bool:
        return self._threads.wait_for_capacity(POLL_SECONDS)

    def _capacity(self) -> dict[str, int]:
        capacity = {}
        for queue in self._unpaused_queues():
            limit = prefetch_limit(self._job_times[queue.name].seconds, self._threads.count, self.batch)
            if (free := limit - self._in_flight.by_queue[queue.name]) > 0:
                capacity[queue.key] = free
        return capacity

    def _fetch(self, capacity: Mapping[str, int], *, block: bool) -> Fetched:
        self._run_quarantined()
        return super()._fetch(capacity, block=block)

    def _leave_quarantined(self, ids: Collection[str]) -> None:
        """Have the parent start a worker for quarantined jobs; without a parent this worker runs them, each alone."""
        quarantined = claims.quarantined_among(db.session(), ids)
        if quarantined and self._board.is_watched:
            self._board.call_quarantine()
        else:
            self._quarantined += quarantined

    def _run_quarantined(self) -> None:
        while self._quarantined:
            self._wait_until_idle()
            if self._stopping.is_set():
                return  # in SQL they are still waiting
            with self._app.app_context():
                items = claims.claim(db.session(), [self._quarantined[-1]], self.name)
            self._quarantined.pop()
            self._in_flight.add(items)
            self._threads.put(items)
            self._wait_until_idle()

    def _wait_until_idle(self) -> None:
        while self._in_flight and not self._stopping.is_set():
            self._in_flight.wait_until_fewer(CHECK_SECONDS)

    def _execute(self, claims: Sequence[Claim]) -> None:
        self._threads.put(claims)

    def _cut(self, waiting: deque[Claim]) -> list[Claim]:
        """Remove the next jobs for one thread from `waiting`: one job, or several of one chunk function."""
        name = waiting[0].name
        try:
            limit = definition(name).chunk or 1
        except UnknownJobError:
            limit = 1
        size = chunk_size(self._wait_times[name].seconds, limit)
        items = [waiting.popleft()]
        while len(items) < size and waiting and waiting[0].name == name:
            items.append(waiting.popleft())
        return items

    def _run(self, items: list[Claim]) -> None:
        """Run jobs on their thread until their new states are committed, or only the batched commit is left."""
        began_at, computed_before = time.monotonic(), time.process_time()
        completed_later: list[Claim] = []

        def complete_later(item: Claim, result: str | None) -> None:
            completed_later.append(item)
            self._completer.add(item, result)

        transitions: executor.Transitions = []
        try:
            with self._board.running([item.id for item in items]):
                transitions = executor.run(
                    self._app, items, self._time_limits.limit, self._stopping.is_set, complete_later
                )
        finally:
            self._finish([item for item in items if item not in completed_later], transitions)
            took = time.monotonic() - began_at
            self._job_times[items[0].queue].learn(len(items), took)
            computed = time.process_time() - computed_before
            self._wait_times[items[0].name].learn(len(items), max(0.0, took - computed))

    def _complete(self, completions: list[Completion]) -> None:
        transitions: executor.Transitions = []
        try:
            transitions = executor.complete(self._app, completions)
        finally:
            self._finish([item for item, _ in completions], transitions)

    def _finish(self, items: list[Claim], transitions: executor.Transitions) -> None:
        if transitions:
            self._update_copies(transitions)
        self._in_flight.discard(items)

    def _watch(self) -> None:
        """Send heartbeats and enforce time limits, on a thread of its own."""
        while not self._stopping.wait(CHECK_SECONDS) or self._in_flight:
            if stuck := self._time_limits.check():
                self._board.stuck_thread = stuck
                log.critical("worker.stuck", reason="a job did not react to its time limit")
                os._exit(EXIT_STUCK)
            self._beat_when_due()
            if self._stopping.is_set():
                time.sleep(CHECK_SECONDS)

    def _drain(self) -> None:
        ends_at = math.inf
        if self._stopping.is_set():
            ends_at = time.monotonic() + self._grace_seconds
            self._release(self._threads.withdraw())
        while not self._threads.wait_until_done(CHECK_SECONDS):
            if time.monotonic() > ends_at or self._must_hurry:
                break
        else:
            self._threads.close()
        self._completer.close()
        journal(self._app).flush()
        if not self._in_flight:
            return
        self._release(self._in_flight.claims())
        self._sign_off()
        os._exit(0)  # the jobs' threads cannot be stopped otherwise; their transactions can no longer commit

    def _release(self, items: list[Claim]) -> None:
        if items:
            log.warning("worker.released_jobs", jobs=len(items))
            try:
                with self._app.app_context():
                    for item in items:
                        attempts.release(db.session(), item)
                    db.session.commit()
            except SQLAlchemyError as error:
                log.warning("rescue.deferred", worker=self.name, error=type(error).__name__)
            self._in_flight.discard(items)


class QuarantineWorker(ThreadedWorker):
    """Runs the quarantined jobs of its queues one at a time, so that a crash has one possible cause; ends when idle."""

    kind = "quarantine"
    ends_when_idle = True
    claims_quarantined = True

    def _is_ready(self) -> bool:
        if self._is_suspended:
            self._pause(CHECK_SECONDS)
        return not self._is_suspended

    def _fetch(self, capacity: Mapping[str, int], *, block: bool) -> Fetched:
        with self._app.app_context():
            id = claims.next_quarantined(db.session(), self.queue_names())
        return Fetched([id] if id else [])

    def _execute(self, claims: Sequence[Claim]) -> None:
        super()._execute(claims)
        self._wait_until_idle()
