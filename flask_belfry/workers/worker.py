"""What the light and the heavy worker have in common: how they start, say that they are alive, wait and stop."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
import structlog
from rq import Queue, worker_registration
from rq.logutils import setup_loghandlers
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import now
from rq.worker import BaseWorker
from rq.worker.base import WorkerStatus
from sqlalchemy.exc import SQLAlchemyError

from flask_belfry.db import db, signs_of_life_context
from flask_belfry.execution import heartbeat
from flask_belfry.execution.application import application
from flask_belfry.outbox import JobState, publisher
from flask_belfry.outbox.registry import max_chunk
from flask_belfry.workers.board import Board
from flask_belfry.workers.in_flight import InFlightJobs
from flask_belfry.workers.pool import accept_stop_signals
from flask_belfry.workers.rq_jobs import expire_copies, mirror_ends

log = structlog.get_logger(__name__)

POLL_SECONDS = 1
CHECK_SECONDS = 0.2
# An answer of Redis that takes longer is none; RQ would wait 415 s for it. More than POLL_SECONDS.
ANSWER_SECONDS = 5.0
MAX_PAUSE_SECONDS = 5.0
SAME_SIGNAL_SECONDS = 1.0
MAX_NAME_CHARACTERS = 20  # of what becomes a name with the host and more


class EngineWorker(BaseWorker):
    """An RQ worker class that lives by SQL: Redis brings it ids, and shows it to RQ's own tools.

    It starts, stays and ends whether Redis answers or not. RQ's bookkeeping per execution is left out: SQL says what
    runs. Timers are rq-scheduler's, so `with_scheduler` has no effect.
    """

    kind: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["serializer"] = JSONSerializer
        if len(args) < 2:  # RQ gives the name by position when it only looks a worker up
            # Unique, also when somebody gives it twice: a claim's owner is known by it.
            kwargs["name"] = heartbeat.process_name((kwargs.get("name") or self.kind)[:MAX_NAME_CHARACTERS])
        board: Board | None = kwargs.pop("board", None)
        super().__init__(*args, **kwargs)
        self.birth_date = now()
        self._app = application()
        self._grace_seconds: float = self._app.config["SHUTDOWN_GRACE_SECONDS"]
        self._held = InFlightJobs()
        # Without a parent of ours it is not read.
        self._board = board or Board(self._app.config["WORKER_THREADS"], max_chunk())
        self._board.name = self.name
        self._beaten_at = float("-inf")
        self._stopping = threading.Event()
        self._stop_asked_at: float | None = None
        self._hurries = False
        self._is_suspended = False
        self._ended = Counter[JobState]()
        self._counting = threading.Lock()

    def request_stop(self, signum: int, frame: Any) -> None:
        """The first signal: finish what runs, within the grace. The second: give it back at once."""
        asked_at = time.monotonic()
        # Ctrl-C reaches a pool's worker twice, from the terminal and from its pool: that is one wish.
        if self._stop_asked_at is not None and asked_at - self._stop_asked_at > SAME_SIGNAL_SECONDS:
            self._hurries = True
        self._stop_asked_at = self._stop_asked_at or asked_at
        self._stopping.set()

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        connection.connection_pool.connection_kwargs["socket_timeout"] = ANSWER_SECONDS
        return connection

    def _set_ip_address(self, connection: redis.Redis) -> None:
        # RQ asks Redis for it, which may be away; host and process id say as much.
        self.ip_address = "unknown"

    def _start(self, logging_level: str | None) -> None:
        """Called once, before the first job. Waits for nothing: what this sign of life cannot do, later ones will."""
        setup_loghandlers(logging_level or "WARNING", name="rq.worker")
        self._install_signal_handlers()
        self._beat_when_due()

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGINT, self.request_stop)
        signal.signal(signal.SIGTERM, self.request_stop)
        accept_stop_signals()

    def _beat_when_due(self) -> None:
        if time.monotonic() - self._beaten_at >= self._app.config["HEARTBEAT_SECONDS"]:
            self._beaten_at = time.monotonic()
            self._beat()

    def _beat(self) -> None:
        """Gives a sign of life, in SQL first: the rescue judges by it, and Redis may be away."""
        try:
            with signs_of_life_context(self._app):
                publisher().ownership.learn(db.session())
                heartbeat.beat_or_register(self.name, self.kind, self.queue_names())
                held = {claim.id for claim in self._held.claims()}
                heartbeat.recover_orphans(db.session(), self.name, held)
        except SQLAlchemyError as error:
            log.warning("heartbeat.late", error=type(error).__name__)
        with _whatever_redis_does():
            self._register_at_rq()

    def _check_broker(self, connection: redis.Redis) -> None:
        """Raises ForeignBrokerError when another deployment owns the Redis database: its jobs are not to be taken."""
        ownership = publisher(self._app).ownership
        if ownership.deployment_id is None:
            with self._app.app_context():
                ownership.learn(db.session())
        ownership.check(connection)

    def _register_at_rq(self) -> None:
        """Shows the worker to RQ's tools, all of it each time: Redis may have forgotten it."""
        idle = WorkerStatus.SUSPENDED if self._is_suspended else WorkerStatus.IDLE
        self._state = WorkerStatus.BUSY if self._held else idle
        self.last_heartbeat = now()
        # The publisher's client waits for a moment only: signs of life must not be late because of Redis.
        broker = publisher(self._app)
        broker.ownership.check(broker.connection)
        counts = {
            "successful_job_count": self._ended[JobState.COMPLETED],
            "failed_job_count": self._ended[JobState.FAILED],
        }
        with broker.connection.pipeline(transaction=False) as pipeline:
            pipeline.hset(self.key, mapping={**self.serialize(), "state": self._state.value, **counts})
            worker_registration.register(self, pipeline)
            # Of workers, `rq info` shows those of the queues that it lists.
            pipeline.sadd(Queue.redis_queues_keys, *(queue.key for queue in self.queues))
            pipeline.expire(self.key, self.worker_ttl)
            pipeline.exists(WORKERS_SUSPENDED)
            *_, suspended = pipeline.execute()
        self._note_suspension(bool(suspended))
        if self.pubsub_thread is None:
            self._meet_rq()

    def _note_suspension(self, is_suspended: bool) -> None:
        """Keeps what `rq suspend` and `rq resume` have set; asked with each heartbeat."""
        if is_suspended != self._is_suspended:
            log.warning("worker.suspended" if is_suspended else "worker.resumed", worker=self.name)
        self._is_suspended = is_suspended

    def _meet_rq(self) -> None:
        """Called when Redis answers for the first time: listens to RQ's commands, and clears away workers that died."""
        for queue in self.queues:
            worker_registration.clean_worker_registry(queue)
        self.subscribe()

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        # RQ's ends the thread on whatever is no ConnectionError, and the worker would hear no more commands.
        if not isinstance(exc, redis.RedisError):
            raise exc
        time.sleep(POLL_SECONDS)

    def _wait_out(self, error: Exception, seconds: float) -> float:
        """Waits while Redis or the database is away.

        Returns:
            how many seconds to wait the next time.
        """
        reason = str(getattr(error, "orig", error))
        log.warning("worker.waiting", error=type(error).__name__, reason=reason, seconds=seconds)
        self._pause(seconds)
        return min(seconds * 2, MAX_PAUSE_SECONDS)

    def _pause(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def _forget(self, ids: Collection[str]) -> None:
        """Lets RQ's copies of jobs expire that are not to run: cancelled, ended, or another worker's."""
        with _whatever_redis_does():
            expire_copies(self.connection, ids, self._app.config["RESULT_TTL_SECONDS"])

    def _mirror(self, ends: Iterable[tuple[str, JobState]]) -> None:
        ends = list(ends)
        with self._counting:
            self._ended.update(state for _, state in ends)
        with _whatever_redis_does():
            mirror_ends(self.connection, ends, self._app.config["RESULT_TTL_SECONDS"])

    def _sign_off(self) -> None:
        try:
            with self._app.app_context():
                heartbeat.sign_off(db.session(), self.name)
            if self.pubsub_thread is not None:  # RQ knows it
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
