"""The worker of the light queues: an RQ worker class that takes jobs in batches and runs them on threads."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

import redis
import structlog
from sqlalchemy.exc import SQLAlchemyError

from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text
from flask_belfry.execution import claim as claims
from flask_belfry.execution import execution
from flask_belfry.execution.claim import Claim
from flask_belfry.execution.deadlines import Deadlines
from flask_belfry.outbox import UnknownJobError
from flask_belfry.outbox.registry import definition
from flask_belfry.workers import prefetch as sizing
from flask_belfry.workers.completer import Done, GroupCommit
from flask_belfry.workers.forks import reset_signals_in_forks
from flask_belfry.workers.pool import EXIT_STUCK
from flask_belfry.workers.prefetch import Prefetch
from flask_belfry.workers.threads import JobThreads
from flask_belfry.workers.worker import CHECK_SECONDS, POLL_SECONDS, EngineWorker

log = structlog.get_logger(__name__)


class LightWorker(EngineWorker):
    """Takes batches of ids from RQ's queues, claims each batch with one UPDATE, and runs it on threads."""

    kind = "light"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = self._app.config
        self._batch: int = settings["WORKER_BATCH"]
        # By queue: long jobs in one must not keep the worker from taking more of another.
        self._job_paces = {name: Prefetch() for name in self.queue_names()}
        self._wait_paces: defaultdict[str, Prefetch] = defaultdict(Prefetch)  # by name
        self._deadlines = Deadlines()
        self._suspects: list[str] = []
        self._job_threads = JobThreads(settings["WORKER_THREADS"], self._cut, self._run)
        self._commits = GroupCommit(self._commit)

    def work(  # pyright: ignore[reportIncompatibleMethodOverride] - RQ passes its options by keyword
        self,
        burst: bool = False,
        logging_level: str | None = None,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        **rq_options: Any,
    ) -> bool:
        """Works until a signal; with `burst`, until the queues are empty.

        Args:
            burst: end when nothing is left.
            logging_level: RQ's own log level.
            max_jobs: end after so many jobs.
            max_idle_time: end after so many seconds without a job.
            rq_options: RQ's other options, which have no meaning here.

        Returns:
            whether any job was run.
        """
        self._start(logging_level)
        reset_signals_in_forks()
        keeper = threading.Thread(target=self._keep_alive, name="keeper", daemon=True)
        keeper.start()
        self._commits.start()
        self._job_threads.start()
        try:
            taken = self._take_until_told(burst, max_jobs, max_idle_time)
            self._wind_down()
        finally:
            self._stopping.set()
            keeper.join()
            self._sign_off()
        return taken > 0

    def _take_until_told(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> int:
        taken, backoff, idle_since = 0, 1.0, time.monotonic()
        ids: list[str] = []
        while not self._stopping.is_set() and not (max_jobs and taken >= max_jobs):
            if not self._job_threads.wait_until_hungry(POLL_SECONDS):
                continue
            rooms = self._rooms()
            has_looked_everywhere = len(rooms) == len(self.queues)
            try:
                self._run_suspects()
                ids = ids or self._take(rooms, block=has_looked_everywhere and not burst)
                items = self._claim(ids)
                backoff = 1.0
            except (redis.RedisError, SQLAlchemyError) as error:
                backoff = self._wait_out(error, backoff)
                continue
            self._job_threads.put(items)
            taken += len(items)
            if ids:
                ids, idle_since = [], time.monotonic()
            elif not has_looked_everywhere or (burst and self._held):
                self._held.wait_until_fewer(CHECK_SECONDS)
            elif burst or (max_idle_time and time.monotonic() - idle_since > max_idle_time):
                break
        return taken

    def _rooms(self) -> dict[str, int]:
        """The keys of the queues that more may be taken of, in their order of precedence, and how many."""
        rooms = {}
        for queue in self.queues:
            limit = sizing.holding(self._job_paces[queue.name], self._job_threads.count, self._batch)
            if (room := limit - self._held.of_queue(queue.name)) > 0:
                rooms[queue.key] = room
        return rooms

    def _take(self, rooms: Mapping[str, int], *, block: bool) -> list[str]:
        """Pops ids from the queues in their order of precedence, and waits for one when there is none."""
        if self._is_suspended:
            self._pause(CHECK_SECONDS)
            return []
        self._check_broker(self.connection)
        ids = self._pop(rooms)
        if not ids and block and (popped := self.connection.blpop(list(rooms), POLL_SECONDS)):
            ids = [_decoded(popped[1]), *self._pop(rooms)]
        return ids

    def _pop(self, rooms: Mapping[str, int]) -> list[str]:
        ids: list[str] = []
        for key, room in rooms.items():
            if (wanted := min(room, self._batch - len(ids))) > 0:
                popped: Any = self.connection.lpop(key, wanted)
                ids += [_decoded(id) for id in popped or ()]
        return ids

    def _claim(self, ids: Sequence[str]) -> list[Claim]:
        valid = [id for text in ids if (id := as_uuid_text(text))]
        if len(valid) < len(ids):
            log.error("queue.foreign_ids", count=len(ids) - len(valid))
        if not valid:
            return []
        with self._app.app_context():
            items = claims.claim(db.session(), list(dict.fromkeys(valid)), self.name, with_suspects=False)
            if left := set(valid) - {item.id for item in items}:
                self._leave_suspects(claims.suspects(db.session(), left))
        self._held.add(items)
        self._forget(left)
        return items

    def _leave_suspects(self, ids: Sequence[str]) -> None:
        """Leaves quarantined jobs to the parent's worker for them; without a parent they run here, alone."""
        if ids and self._board.is_watched:
            self._board.call_quarantine()
        else:
            self._suspects += ids

    def _run_suspects(self) -> None:
        """Runs quarantined jobs without a parent's worker for them, each alone until its end."""
        while self._suspects:
            self._wait_until_free()
            if self._stopping.is_set():
                return  # SQL still has them waiting
            with self._app.app_context():
                items = claims.claim(db.session(), [self._suspects[-1]], self.name)
            self._suspects.pop()
            self._held.add(items)
            self._job_threads.put(items)
            self._wait_until_free()

    def _wait_until_free(self) -> None:
        while self._held and not self._stopping.is_set():
            self._held.wait_until_fewer(CHECK_SECONDS)

    def _cut(self, waiting: deque[Claim]) -> list[Claim]:
        """What the next thread gets: one job, or as many of its kind as its chunk function should take."""
        name = waiting[0].name
        limit = _chunk_size(name)
        size = sizing.unit(self._wait_paces[name], limit)
        items = [waiting.popleft()]
        while len(items) < size and waiting and waiting[0].name == name:
            items.append(waiting.popleft())
        return items

    def _run(self, items: list[Claim]) -> None:
        """Runs jobs on their thread, to their ends or until no more than the commit is left."""
        began_at, computed_before = time.monotonic(), time.process_time()
        later: list[Claim] = []

        def end_later(item: Claim, result: str | None) -> None:
            later.append(item)
            self._commits.add(item, result)

        ends: execution.Ends = []
        try:
            with self._board.running([item.id for item in items]):
                ends = execution.run(self._app, items, self._deadlines.limit, self._stopping.is_set, end_later)
        finally:
            self._end([item for item in items if item not in later], ends)
            took = time.monotonic() - began_at
            self._job_paces[items[0].queue].learn(len(items), took)
            computed = time.process_time() - computed_before
            self._wait_paces[items[0].name].learn(len(items), max(0.0, took - computed))

    def _commit(self, done: list[Done]) -> None:
        """Ends jobs that changed nothing."""
        ends: execution.Ends = []
        try:
            ends = execution.complete(self._app, done)
        finally:
            self._end([item for item, _ in done], ends)

    def _end(self, items: list[Claim], ends: execution.Ends) -> None:
        if ends:
            self._mirror(ends)
        self._held.discard(items)

    def _keep_alive(self) -> None:
        """Signs of life, deadlines, and claims whose answer was lost; on a thread of its own."""
        while not self._stopping.wait(CHECK_SECONDS) or self._held:
            if stuck := self._deadlines.check():
                self._board.stuck_thread = stuck
                log.critical("worker.stuck", reason="a job does not react to its timeout")
                os._exit(EXIT_STUCK)
            self._beat_when_due()
            if self._stopping.is_set():
                time.sleep(CHECK_SECONDS)

    def _wind_down(self) -> None:
        """Waits for running jobs, after a signal within the grace; what is not done then goes back to the queue."""
        ends_at = math.inf
        if self._stopping.is_set():
            ends_at = time.monotonic() + self._grace_seconds
            self._give_back(self._job_threads.withdraw())
        while not self._job_threads.wait_until_done(CHECK_SECONDS):
            if time.monotonic() > ends_at or self._hurries:
                break
        else:
            self._job_threads.close()
        self._commits.close()
        if not self._held:
            return
        self._give_back(self._held.claims())
        self._sign_off()
        os._exit(0)  # the jobs' threads cannot be stopped otherwise; their transactions can no longer commit

    def _give_back(self, items: list[Claim]) -> None:
        if items:
            log.warning("worker.gives_back", jobs=len(items))
            try:
                with self._app.app_context():
                    claims.give_back(db.session(), items)
                    db.session.commit()
            except SQLAlchemyError as error:
                log.warning("rescue.later", worker=self.name, error=type(error).__name__)
            self._held.discard(items)


class QuarantineWorker(LightWorker):
    """Runs the quarantined jobs of its queues, one at a time: a crash has one possible cause. Ends when none waits."""

    kind = "quarantine"

    def _take_until_told(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> int:
        taken, backoff = 0, 1.0
        while not self._stopping.is_set():
            if self._is_suspended:
                self._pause(CHECK_SECONDS)
                continue
            try:
                with self._app.app_context():
                    id = claims.next_quarantined(db.session(), self.queue_names())
                    items = claims.claim(db.session(), [id], self.name) if id else []
                backoff = 1.0
            except SQLAlchemyError as error:
                backoff = self._wait_out(error, backoff)
                continue
            if id is None:
                break
            taken += len(items)
            self._held.add(items)
            self._job_threads.put(items)
            self._wait_until_free()
        return taken


def _decoded(id: Any) -> str:
    # Whatever else somebody has pushed: it is to be told apart from our ids, not to stop the worker.
    return id.decode(errors="replace")


def _chunk_size(name: str) -> int:
    try:
        return definition(name).chunk or 1
    except UnknownJobError:
        return 1
