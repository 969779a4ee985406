"""The worker of the light queues: an RQ worker class that takes jobs in batches and runs them on threads."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import redis
import structlog
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker
from rq.worker.base import WorkerStatus
from sqlalchemy.exc import SQLAlchemyError

from app.columns import as_uuid_text
from app.extensions import db
from app.outbox import UnknownJobError
from jobs.engine import claim as claims
from jobs.engine import execution, heartbeat
from jobs.engine.application import application
from jobs.engine.claim import Claim
from jobs.engine.deadlines import Deadlines
from jobs.engine.mirror import expire_copies, mirror_ends
from jobs.engine.pool import accept_stop_signals
from jobs.engine.registry import definition
from jobs.engine.sizing import BatchSize

log = structlog.get_logger(__name__)

POLL_SECONDS = 1
CHECK_SECONDS = 0.2
MAX_BACKOFF_SECONDS = 5.0
ALONE_SECONDS = 10.0
SAME_SIGNAL_SECONDS = 1.0
EXIT_STUCK = 75  # EX_TEMPFAIL: whoever supervises the process starts it again


class LightWorker(BaseWorker):
    """Takes batches of ids from RQ's queues, claims each batch with one UPDATE, and runs it on threads.

    RQ's bookkeeping per execution is left out: SQL says what runs. Timers are rq-scheduler's, so `with_scheduler`
    has no effect.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["serializer"] = JSONSerializer
        if len(args) < 2:  # RQ gives the name by position when it only looks a worker up
            kwargs["name"] = kwargs.get("name") or heartbeat.process_name("light")
        super().__init__(*args, **kwargs)
        self._app = application()
        settings = self._app.config
        self._threads: int = settings["WORKER_THREADS"]
        self._grace_seconds: float = settings["SHUTDOWN_GRACE_SECONDS"]
        self._batch: int = settings["WORKER_BATCH"]
        # By queue: long jobs in one must not make the batches of another small.
        self._batch_sizes = {name: BatchSize(self._batch, self._threads) for name in self.queue_names()}
        self._deadlines = Deadlines()
        self._stopping = threading.Event()
        self._held: dict[str, Claim] = {}
        self._suspects: list[str] = []
        self._changed = threading.Condition()
        self._busy_threads = 0
        self._stop_asked_at: float | None = None
        self._hurries = False

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
        self._install_signal_handlers()
        self.bootstrap(logging_level or "WARNING")
        with self._app.app_context():
            heartbeat.register(db.session(), self.name, "light", self.queue_names())
        keeper = threading.Thread(target=self._keep_alive, name="keeper", daemon=True)
        keeper.start()
        try:
            with ThreadPoolExecutor(self._threads, thread_name_prefix="job") as pool:
                taken = self._take_until_told(pool, burst, max_jobs, max_idle_time)
                self._wind_down()
        finally:
            self._stopping.set()
            keeper.join()
            self._sign_off()
        return taken > 0

    def request_stop(self, signum: int, frame: Any) -> None:
        """The first signal: finish what runs, within the grace. The second: give it back at once."""
        now = time.monotonic()
        # Ctrl-C reaches a pool's worker twice, from the terminal and from its pool: that is one wish.
        if self._stop_asked_at is not None and now - self._stop_asked_at > SAME_SIGNAL_SECONDS:
            self._hurries = True
        self._stop_asked_at = self._stop_asked_at or now
        self._stopping.set()

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGINT, self.request_stop)
        signal.signal(signal.SIGTERM, self.request_stop)
        accept_stop_signals()

    def _take_until_told(
        self, pool: ThreadPoolExecutor, burst: bool, max_jobs: int | None, max_idle_time: int | None
    ) -> int:
        taken, backoff, idle_since = 0, 1.0, time.monotonic()
        while not self._stopping.is_set() and not (max_jobs and taken >= max_jobs):
            idle_threads = self._wait_for_idle_thread()
            if idle_threads == 0:
                continue
            try:
                self._run_suspects(pool)
                ids = self._take(idle_threads, block=not burst)
                items = self._claim(ids)
                backoff = 1.0
            except (redis.RedisError, SQLAlchemyError) as error:
                # Ids that were taken and not claimed are found by the relay: SQL still has them waiting.
                log.warning("worker.waiting", error=type(error).__name__, seconds=backoff)
                self._stopping.wait(backoff)
                backoff = min(backoff * 2, MAX_BACKOFF_SECONDS)
                continue
            for group in self._groups(items, idle_threads):
                self._submit(pool, group)
            taken += len(items)
            if ids:
                idle_since = time.monotonic()
            elif burst and self._held:
                self._wait_for_change()
            elif burst or (max_idle_time and time.monotonic() - idle_since > max_idle_time):
                break
        return taken

    def _wait_for_idle_thread(self) -> int:
        with self._changed:
            if self._busy_threads >= self._threads:
                self._changed.wait(POLL_SECONDS)
            return max(0, self._threads - self._busy_threads)

    def _wait_for_change(self) -> None:
        with self._changed:
            self._changed.wait(CHECK_SECONDS)

    def _take(self, idle_threads: int, *, block: bool) -> list[str]:
        """Pops ids from the queues in their order of precedence, and waits for one when there is none."""
        ids = self._pop(idle_threads)
        if not ids and block and (popped := self.connection.blpop(self.queue_keys(), POLL_SECONDS)):
            ids = [_decoded(popped[1]), *self._pop(idle_threads)]
        return ids

    def _pop(self, idle_threads: int) -> list[str]:
        ids: list[str] = []
        for queue in self.queues:
            wanted = min(self._batch_sizes[queue.name].next(idle_threads), self._batch - len(ids))
            if wanted > 0:
                popped: Any = self.connection.lpop(queue.key, wanted)
                ids += [_decoded(id) for id in popped or ()]
        return ids

    def _run_suspects(self, pool: ThreadPoolExecutor) -> None:
        """Runs the jobs that every death of their workers has met, each with nothing beside it to share the next one.

        A long one gets company after a while: others must not wait for ever.
        """
        while self._suspects:
            self._wait_until_idle()
            if self._stopping.is_set():
                return  # SQL still has them waiting
            with self._app.app_context():
                items = claims.claim(db.session(), [self._suspects.pop()], self.name)
            self._held |= {item.id: item for item in items}
            for item in items:
                self._submit(pool, [item])
            self._wait_until_idle()

    def _wait_until_idle(self) -> None:
        ends_at = time.monotonic() + ALONE_SECONDS
        while self._held and not self._stopping.is_set() and time.monotonic() < ends_at:
            self._wait_for_change()

    def _claim(self, ids: Sequence[str]) -> list[Claim]:
        valid = [id for text in ids if (id := as_uuid_text(text))]
        if len(valid) < len(ids):
            log.error("queue.foreign_ids", count=len(ids) - len(valid))
        if not valid:
            return []
        with self._app.app_context():
            items = claims.claim(db.session(), list(dict.fromkeys(valid)), self.name, with_suspects=False)
            left = set(valid) - {item.id for item in items}
            if left:
                self._suspects += claims.suspects(db.session(), left)
        self._held |= {item.id: item for item in items}
        self._forget(left)
        return items

    def _groups(self, items: Sequence[Claim], idle_threads: int) -> Iterator[list[Claim]]:
        """What each thread gets: chunks are cut so that all idle threads share them; other jobs go one by one."""
        by_name: dict[str, list[Claim]] = defaultdict(list)
        for item in items:
            by_name[item.name].append(item)
        for name, group in by_name.items():
            size = min(_chunk_size(name), max(1, math.ceil(len(group) / idle_threads)))
            for start in range(0, len(group), size):
                yield group[start : start + size]

    def _submit(self, pool: ThreadPoolExecutor, group: list[Claim]) -> None:
        with self._changed:
            self._busy_threads += 1
        pool.submit(self._run, group)

    def _run(self, group: list[Claim]) -> None:
        """Runs a group on its thread. A job that fails is no error here; what gets past `execution.run` is."""
        begun = time.monotonic()
        try:
            ends = execution.run(self._app, group, self._deadlines.limit, self._stopping.is_set)
            self._mirror(ends)
        except BaseException:
            log.exception("worker.thread_failed", job=group[0].name)
        finally:
            for item in group:
                # By the claim: it may have been taken away, and be held by this worker anew.
                if self._held.get(item.id) is item:
                    del self._held[item.id]
            with self._changed:
                self._busy_threads -= 1
                self._learn(group, time.monotonic() - begun)
                self._changed.notify()

    def _learn(self, group: Sequence[Claim], seconds: float) -> None:
        # A chunk's threads share whatever is taken, so that a large batch makes none of its jobs wait for a thread.
        is_chunk = _chunk_size(group[0].name) > 1
        if (size := self._batch_sizes.get(group[0].queue)) is not None:
            size.learn(len(group), 0.0 if is_chunk else seconds)

    def _forget(self, ids: Collection[str]) -> None:
        """Lets RQ's copies of jobs expire that are not to run: cancelled, ended, or another worker's."""
        with _whatever_redis_does():
            expire_copies(self.connection, ids, self._app.config["RESULT_TTL_SECONDS"])

    def _mirror(self, ends: execution.Ends) -> None:
        with _whatever_redis_does():
            mirror_ends(self.connection, ends, self._app.config["RESULT_TTL_SECONDS"])

    def _keep_alive(self) -> None:
        """Signs of life, deadlines, and claims whose answer was lost; on a thread of its own."""
        beaten_at = 0.0
        while not self._stopping.wait(CHECK_SECONDS) or self._held:
            if self._deadlines.check():
                log.critical("worker.stuck", reason="a job does not react to its timeout")
                os._exit(EXIT_STUCK)
            if time.monotonic() - beaten_at >= self._app.config["HEARTBEAT_SECONDS"]:
                beaten_at = time.monotonic()
                self._beat()
            if self._stopping.is_set():
                time.sleep(CHECK_SECONDS)

    def _beat(self) -> None:
        try:
            with self._app.app_context():
                heartbeat.beat_or_register(self.name, "light", self.queue_names())
                heartbeat.recover_orphans(db.session(), self.name, list(self._held))
            self._state = WorkerStatus.BUSY if self._held else WorkerStatus.IDLE
            self.connection.hset(self.key, "state", self._state)
            self.heartbeat()
        except (redis.RedisError, SQLAlchemyError) as error:
            log.warning("heartbeat.late", error=type(error).__name__)

    def _wind_down(self) -> None:
        """Waits for running jobs, after a signal within the grace; what is not done then goes back to the queue."""
        ends_at = time.monotonic() + self._grace_seconds if self._stopping.is_set() else math.inf
        with self._changed:
            while self._busy_threads and time.monotonic() < ends_at and not self._hurries:
                self._changed.wait(CHECK_SECONDS)
        left = list(self._held.values())
        if not left:
            return
        log.warning("worker.gives_back", jobs=len(left))
        try:
            with self._app.app_context():
                claims.give_back(db.session(), left)
                db.session.commit()
        except SQLAlchemyError as error:
            log.warning("rescue.later", worker=self.name, error=type(error).__name__)
        self._sign_off()
        os._exit(0)  # the jobs' threads cannot be stopped otherwise; their transactions can no longer commit

    def _sign_off(self) -> None:
        try:
            with self._app.app_context():
                heartbeat.sign_off(db.session(), self.name)
            self.teardown()
        except (redis.RedisError, SQLAlchemyError) as error:
            log.warning("worker.signed_off_late", error=type(error).__name__)


@contextmanager
def _whatever_redis_does() -> Iterator[None]:
    """For RQ's copies of what SQL knows: nothing depends on them."""
    try:
        yield
    except redis.RedisError as error:
        log.warning("mirror.skipped", error=type(error).__name__)


def _decoded(id: Any) -> str:
    # Whatever else somebody has pushed: it is to be told apart from our ids, not to stop the worker.
    return id.decode(errors="replace")


def _chunk_size(name: str) -> int:
    try:
        return definition(name).chunk or 1
    except UnknownJobError:
        return 1
