"""The threaded worker: it claims jobs in batches and runs them on threads of one process."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from flask_belfry.db import db
from flask_belfry.db.statement_time import statement_seconds
from flask_belfry.execution import attempts, executor
from flask_belfry.execution import claim as claims
from flask_belfry.execution.claim import Claim
from flask_belfry.execution.hand_over import HandOver
from flask_belfry.execution.journal import journal
from flask_belfry.execution.quarantine import quarantined_among
from flask_belfry.execution.time_limits import TimeLimits
from flask_belfry.outbox import UnknownJobError
from flask_belfry.outbox.registry import definition
from flask_belfry.workers.backlogs import Fetched
from flask_belfry.workers.completer import BatchCompleter, Completion
from flask_belfry.workers.forks import reset_signals_in_forks
from flask_belfry.workers.pool import EXIT_STUCK
from flask_belfry.workers.prefetch import HAND_OVER_SECONDS, MeanTime, chunk_size, prefetch_limit, smallest_fetch
from flask_belfry.workers.registration import CHECK_SECONDS, POLL_SECONDS
from flask_belfry.workers.threads import JobThreads
from flask_belfry.workers.worker import EngineWorker

log = structlog.get_logger(__name__)


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
        self._waiting_since = math.inf  # since when the loop waits for an idle thread
        ranks = {name: rank for rank, name in enumerate(self.queue_names())}
        self._threads = JobThreads(
            settings["WORKER_THREADS"], self._cut, self._run, precedence=lambda item: ranks.get(item.queue, 0)
        )
        # The thread that commits the end of its own job is free; the completer's jobs have left their threads.
        self._hand_over = HandOver(self.name, partial(self._capacity_for_slots, 0), self._accept)
        self._own_hand_over = HandOver(self.name, partial(self._capacity_for_slots, 1), self._accept)
        self._completer = BatchCompleter(self._complete)
        # A heartbeat may wait for the very job whose time limit is over: SQLite has one writer.
        self._regular = [
            threading.Thread(target=self._repeat, args=(action,), name=name, daemon=True)
            for name, action in (("watchdog", self._enforce_time_limits), ("heartbeat", self._beat_when_due))
        ]

    def _start(self, logging_level: str | None) -> None:
        super()._start(logging_level)
        reset_signals_in_forks()
        for thread in self._regular:
            thread.start()
        self._completer.start()
        self._threads.start()

    def _close(self) -> None:
        self._stopping.set()
        for thread in self._regular:
            thread.join()
        super()._close()

    def _is_ready(self) -> bool:
        self._waiting_since = min(self._waiting_since, time.monotonic())
        if is_ready := self._threads.wait_for_capacity(POLL_SECONDS):
            self._waiting_since = math.inf
        return is_ready

    def _capacity(self) -> dict[str, int]:
        capacity = {}
        for queue in self._unpaused_queues():
            limit = prefetch_limit(self._job_times[queue.name].seconds, self._threads.count, self.batch)
            free = limit - self._in_flight.by_queue[queue.name]
            if free >= smallest_fetch(limit, self._threads.count, self.batch):
                capacity[queue.key] = free
        return capacity

    def _capacity_for_slots(self, ending: int) -> dict[str, int]:
        """How many jobs may replace ended ones of their limits, by queue, when `ending` of the threads are free."""
        is_fetch_late = time.monotonic() - self._waiting_since > HAND_OVER_SECONDS
        is_closed = self._quarantined or self._is_suspended or self._stopping.is_set() or not self._accepts_slots
        if is_closed or is_fetch_late:
            return {}
        unfinished = self._threads.unfinished - ending
        capacity = {}
        for queue in self._unpaused_queues():
            mean_seconds = self._job_times[queue.name].seconds
            limit = prefetch_limit(mean_seconds, self._threads.count, self.batch, HAND_OVER_SECONDS)
            capacity[queue.name] = limit - unfinished
        return capacity

    def _accept(self, claims: Sequence[Claim]) -> None:
        self._in_flight.add(claims)
        self._threads.put(claims)

    def _fetch(self, capacity: Mapping[str, int], *, block: bool) -> Fetched:
        self._run_quarantined()
        return super()._fetch(capacity, block=block)

    def _leave_quarantined(self, ids: Collection[str]) -> None:
        """Have the parent start a worker for quarantined jobs; without a parent this worker runs them, each alone."""
        quarantined = quarantined_among(db.session(), ids)
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
        size = chunk_size(self._wait_times[name].seconds, limit, share=len(waiting) // self._threads.count)
        items = [waiting.popleft()]
        while len(items) < size and waiting and waiting[0].name == name:
            items.append(waiting.popleft())
        return items

    def _run(self, items: list[Claim]) -> None:
        """Run jobs on their thread until their new states are committed, or only the batched commit is left."""
        began_at, busy_before = time.monotonic(), _busy_seconds()
        completed_later: list[Claim] = []

        def complete_later(item: Claim, result: str | None) -> None:
            completed_later.append(item)
            self._completer.add(item, result)

        transitions: executor.Transitions = []
        try:
            with self._board.running([item.id for item in items]):
                transitions = executor.run(
                    self._app,
                    items,
                    self._time_limits.limit,
                    self._stopping.is_set,
                    complete_later,
                    self._own_hand_over,
                )
        finally:
            self._finish([item for item in items if item not in completed_later], transitions)
            took = time.monotonic() - began_at
            self._job_times[items[0].queue].learn(len(items), took)
            waited = max(0.0, took - (_busy_seconds() - busy_before))
            self._wait_times[items[0].name].learn(len(items), waited)

    def _complete(self, completions: list[Completion]) -> None:
        transitions: executor.Transitions = []
        try:
            transitions = executor.complete(self._app, completions, self._hand_over)
        finally:
            self._finish([item for item, _ in completions], transitions)

    def _finish(self, items: list[Claim], transitions: executor.Transitions) -> None:
        if transitions:
            self._update_copies(transitions)
        self._in_flight.discard(items)

    def _repeat(self, action: Callable[[], object]) -> None:
        while not self._stopping.wait(CHECK_SECONDS) or self._in_flight:
            action()
            if self._stopping.is_set():
                time.sleep(CHECK_SECONDS)

    def _enforce_time_limits(self) -> None:
        if stuck := self._time_limits.check():
            self._board.stuck_thread = stuck
            log.critical("worker.stuck", reason="a job did not react to its time limit")
            os._exit(EXIT_STUCK)

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
            self._in_flight.discard(items, are_released=True)


def _busy_seconds() -> float:
    """The time that the process has computed, and that this thread has used the database."""
    return time.process_time() + statement_seconds()
