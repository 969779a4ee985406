"""How a worker starts, registers in SQL and at RQ, sends heartbeats and stops; and RQ's copies of its jobs."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
import structlog
from rq import Queue, worker_registration
from rq.job import Job, JobStatus
from rq.logutils import setup_loghandlers
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import now, utcformat
from rq.worker import BaseWorker
from rq.worker.base import WorkerStatus
from sqlalchemy.exc import SQLAlchemyError

from flask_belfry.db import db, heartbeat_context
from flask_belfry.execution import heartbeat
from flask_belfry.execution.application import application
from flask_belfry.outbox import JobState, publisher
from flask_belfry.outbox.pauses import paused_queues
from flask_belfry.outbox.registry import max_chunk
from flask_belfry.workers.board import Board
from flask_belfry.workers.in_flight import InFlightJobs
from flask_belfry.workers.pool import accept_stop_signals

log = structlog.get_logger(__name__)

POLL_SECONDS = 1
CHECK_SECONDS = 0.2
# The most that a response of Redis may take; RQ would wait 415 s for it. More than POLL_SECONDS.
REDIS_TIMEOUT_SECONDS = 5.0
SAME_SIGNAL_SECONDS = 1.0
# The shortest time between two queries for paused queues.
PAUSES_SECONDS = 1.0
MAX_NAME_CHARACTERS = 20  # of the part of a worker's name before the host

RQ_STATUS: dict[JobState, JobStatus] = {
    JobState.BLOCKED: JobStatus.DEFERRED,
    JobState.PENDING: JobStatus.CREATED,
    JobState.SCHEDULED: JobStatus.SCHEDULED,
    JobState.QUEUED: JobStatus.QUEUED,
    JobState.RUNNING: JobStatus.STARTED,
    JobState.RETRYABLE: JobStatus.SCHEDULED,
    JobState.COMPLETED: JobStatus.FINISHED,
    JobState.FAILED: JobStatus.FAILED,
    JobState.CANCELLED: JobStatus.CANCELED,
}

# A job whose copy at RQ has expired gets no new one.
_UPDATE_COPIES = """
for i, key in ipairs(KEYS) do
  if redis.call('exists', key) == 1 then
    redis.call('hset', key, 'ended_at', ARGV[1], 'status', ARGV[i + 2])
    redis.call('expire', key, ARGV[2])
  end
end
"""


class RegisteredWorker(BaseWorker):
    """An RQ worker class that depends on SQL only: it starts, runs and ends whether Redis answers or not.

    Args:
        board: the memory shared with the parent; None without a parent.
    """

    kind: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["serializer"] = JSONSerializer
        if len(args) < 2:  # RQ passes the name by position when it only looks a worker up
            # Unique, also when two workers are given the same name: it identifies the owner of a claim.
            kwargs["name"] = heartbeat.process_name((kwargs.get("name") or self.kind)[:MAX_NAME_CHARACTERS])
        board: Board | None = kwargs.pop("board", None)
        super().__init__(*args, **kwargs)
        self.birth_date = now()
        self._app = application()
        self._grace_seconds: float = self._app.config["SHUTDOWN_GRACE_SECONDS"]
        self._in_flight = InFlightJobs()
        self._board = board or Board(self._app.config["WORKER_THREADS"], max_chunk())
        self._board.name = self.name
        self._heartbeat_at = float("-inf")
        self._stopping = threading.Event()
        self._stop_requested_at: float | None = None
        self._must_hurry = False
        self._is_suspended = False
        self._paused_queues: frozenset[str] = frozenset()
        self._pauses_read_at = float("-inf")
        self._counts = Counter[JobState]()
        self._counts_lock = threading.Lock()

    def request_stop(self, signum: int, frame: Any) -> None:
        """Finish running jobs within the grace period after the first signal; release them after the second."""
        requested_at = time.monotonic()
        # Ctrl-C reaches a worker twice, from the terminal and from its parent: that is one request.
        if self._stop_requested_at is not None and requested_at - self._stop_requested_at > SAME_SIGNAL_SECONDS:
            self._must_hurry = True
        self._stop_requested_at = self._stop_requested_at or requested_at
        self._stopping.set()

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        connection.connection_pool.connection_kwargs["socket_timeout"] = REDIS_TIMEOUT_SECONDS
        return connection

    def _set_ip_address(self, connection: redis.Redis) -> None:
        # RQ queries Redis for it, which may be unavailable; host and process id identify the worker.
        self.ip_address = "unknown"

    def _start(self, logging_level: str | None) -> None:
        """Prepare for the first job without waiting: what the first heartbeat cannot register, a later one will."""
        setup_loghandlers(logging_level or "WARNING", name="rq.worker")
        self._install_signal_handlers()
        self._beat_when_due()

    def _install_signal_handlers(self) -> None:
        signal.signal(signal.SIGINT, self.request_stop)
        signal.signal(signal.SIGTERM, self.request_stop)
        accept_stop_signals()

    def _close(self) -> None:
        """Release what `_start` has set up."""
        self._sign_off()

    def _beat_when_due(self) -> None:
        if time.monotonic() - self._heartbeat_at >= self._app.config["HEARTBEAT_SECONDS"]:
            self._heartbeat_at = time.monotonic()
            self._beat()

    def _beat(self) -> None:
        # In SQL first: the rescuer goes by it, and Redis may be unavailable.
        try:
            with heartbeat_context(self._app):
                publisher().ownership.learn(db.session())
                must_stop = heartbeat.beat_or_register(self.name, self.kind, self.queue_names(), self._in_flight.ended)
                if must_stop and not self._stopping.is_set():
                    log.info("worker.stop_requested", worker=self.name)
                    self.request_stop(signal.SIGTERM, None)
                heartbeat.recover_orphans(db.session(), self.name, {claim.id for claim in self._in_flight.claims()})
                self._read_pauses()
        except SQLAlchemyError as error:
            log.warning("heartbeat.late", error=type(error).__name__)
        with redis_optional():
            self._register_at_rq()

    def _read_pauses(self) -> None:
        """Query which queues are paused. Called with each heartbeat, after a claim that left ids, and during a pause.

        So a worker notices a pause within a heartbeat, or with the first job that it does not get. Until then it pops
        ids whose jobs the claim blocks.
        """
        self._pauses_read_at = time.monotonic()
        paused = paused_queues(db.session()).intersection(self.queue_names())
        db.session.rollback()
        if paused != self._paused_queues:
            log.info("worker.queues_paused", worker=self.name, queues=sorted(paused))
        self._paused_queues = paused

    def _are_pauses_old(self) -> bool:
        return time.monotonic() - self._pauses_read_at >= PAUSES_SECONDS

    def _check_broker(self, connection: redis.Redis) -> None:
        """Raise ForeignBrokerError when another deployment owns the Redis database: its jobs must not be fetched."""
        ownership = publisher(self._app).ownership
        if ownership.deployment_id is None:
            with self._app.app_context():
                ownership.learn(db.session())
        ownership.check(connection)

    def _register_at_rq(self) -> None:
        """Write the worker's whole entry for RQ's tools, each time: Redis may have lost it."""
        idle = WorkerStatus.SUSPENDED if self._is_suspended else WorkerStatus.IDLE
        self._state = WorkerStatus.BUSY if self._in_flight else idle
        self.last_heartbeat = now()
        # The publisher's client has short timeouts: Redis must not delay the heartbeats.
        broker = publisher(self._app)
        broker.ownership.check(broker.connection)
        counts = {
            "successful_job_count": self._counts[JobState.COMPLETED],
            "failed_job_count": self._counts[JobState.FAILED],
        }
        with broker.connection.pipeline(transaction=False) as pipeline:
            pipeline.hset(self.key, mapping={**self.serialize(), "state": self._state.value, **counts})
            worker_registration.register(self, pipeline)
            # `rq info` shows the workers of the queues that it lists, and no others.
            pipeline.sadd(Queue.redis_queues_keys, *(queue.key for queue in self.queues))
            pipeline.expire(self.key, self.worker_ttl)
            pipeline.exists(WORKERS_SUSPENDED)
            *_, suspended = pipeline.execute()
        self._note_suspension(bool(suspended))
        if self.pubsub_thread is None:  # Redis answers for the first time
            for queue in self.queues:
                worker_registration.clean_worker_registry(queue)
            self.subscribe()

    def _note_suspension(self, is_suspended: bool) -> None:
        """Store what `rq suspend` and `rq resume` have set, as read with each heartbeat."""
        if is_suspended != self._is_suspended:
            log.warning("worker.suspended" if is_suspended else "worker.resumed", worker=self.name)
        self._is_suspended = is_suspended

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        # RQ's own handler ends the thread for errors other than ConnectionError, and with it the worker's commands.
        if not isinstance(exc, redis.RedisError):
            raise exc
        time.sleep(POLL_SECONDS)

    def _expire_copies(self, ids: Collection[str]) -> None:
        """Let RQ's copies of jobs expire that this worker must not run: cancelled, finalized, or another worker's."""
        with redis_optional(), self.connection.pipeline(transaction=False) as pipeline:
            for id in ids:
                pipeline.expire(Job.key_for(id), self._app.config["RESULT_TTL_SECONDS"])
            pipeline.execute()

    def _update_copies(self, transitions: Sequence[tuple[str, JobState]]) -> None:
        """Write the new states of jobs into RQ's copies, with one command, and let the copies expire."""
        with self._counts_lock:
            self._counts.update(state for _, state in transitions)
        keys = [Job.key_for(id) for id, _ in transitions]
        statuses = [RQ_STATUS[state] for _, state in transitions]
        ttl_seconds = self._app.config["RESULT_TTL_SECONDS"]
        with redis_optional():
            self.connection.eval(_UPDATE_COPIES, len(keys), *keys, utcformat(now()), ttl_seconds, *statuses)

    def _sign_off(self) -> None:
        try:
            with self._app.app_context():
                heartbeat.sign_off(db.session(), self.name)
            if self.pubsub_thread is not None:  # it is registered at RQ
                self.teardown()
        except (redis.RedisError, SQLAlchemyError) as error:
            log.warning("worker.signed_off_late", error=type(error).__name__)


@contextmanager
def redis_optional() -> Iterator[None]:
    """Log errors of Redis in a block that only updates RQ's view of what SQL records: nothing depends on it."""
    try:
        yield
    except redis.RedisError as error:
        log.warning("rq.not_updated", error=type(error).__name__)
