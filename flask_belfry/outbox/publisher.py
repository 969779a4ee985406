"""Publishes job records to RQ: immediately after a commit, and again by the relay. SQL has them in any case."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import redis
import structlog
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import utcformat
from rq_scheduler import Scheduler

from flask_belfry.core.clock import utc_now
from flask_belfry.outbox.backlog import BACKLOG_KEY, FairChoice, KnownQueues
from flask_belfry.outbox.broker import CircuitBreaker
from flask_belfry.outbox.deployment import BrokerOwnership
from flask_belfry.outbox.pending import PendingMessage

log = structlog.get_logger(__name__)

# A busy broker executes a pipeline of this size within the timeout of a request. Larger ones are not faster.
PIPELINE_RECORDS = 100
DELAYED_KEY = Scheduler.scheduled_jobs_key
LIMITS_PREFIX = "belfry:limits"
PROBE = "probe"
_SCRIPT = "return redis.call('set', KEYS[1], '', 'PX', 1)"


@dataclass
class Publisher:
    """Publishes records to RQ's queues, and those that are due later to rq-scheduler's sorted set.

    Args:
        connection: a client with timeouts that are short enough for a request.
        breaker: keeps the next callers from waiting after a failure.
        entry_point: dotted name of the function that a stock RQ worker calls with the record's id.
        result_ttl_seconds: how long RQ keeps its own copy of a finalized job.
        queues: what this process knows of the queues' lengths.
        run_inline: with JOBS_EAGER: runs the records in the caller instead of publishing them.
        run_job_inline: runs one record in the caller now, also one that is due later, unless a worker has claimed it.
        ownership: checks that the Redis database belongs to this deployment.
        choice: chooses what the relay pushes of a backlog.
    """

    connection: redis.Redis
    breaker: CircuitBreaker
    entry_point: str
    result_ttl_seconds: int
    queues: KnownQueues
    run_inline: Callable[[Sequence[str]], None] | None = None
    run_job_inline: Callable[[str], None] = lambda _: None  # until an application binds its jobs
    ownership: BrokerOwnership = field(default_factory=BrokerOwnership)
    choice: FairChoice = field(default_factory=FairChoice)

    def publish(self, records: Sequence[PendingMessage], backlog: Collection[str] = ()) -> bool:
        """Publish `records`, whose transaction has committed. Redis errors are logged: the relay publishes the rest.

        Args:
            records: what to publish. What a full queue cannot hold becomes its backlog.
            backlog: the queues of which the transaction wrote more.

        Returns:
            whether Redis has all of them, or knows of the backlog.
        """
        if self.run_inline is not None:
            self.run_inline([record.id for record in records if record.scheduled_at is None])
            return True
        if not self.breaker.admits():
            return False
        try:
            self.ownership.check(self.connection)
            self.push(records)
            self.mark_backlog(backlog)
        except redis.RedisError as error:
            self.breaker.failed()
            log.warning("publish.deferred", records=len(records), error=type(error).__name__, reason=str(error))
            return False
        self.breaker.succeeded()
        return True

    def probe(self) -> None:
        """Run every command that web, scheduler and workers use, on keys of its own that it removes again.

        Raises:
            redis.RedisError: also where a PING succeeds: the broker is read-only or full, or denies this user a
                command or a key.
        """
        queue, job = Queue.redis_queue_namespace_prefix + PROBE, Job.redis_job_namespace_prefix + PROBE
        with self.connection.pipeline(transaction=True) as pipeline:
            pipeline.set(f"belfry:{PROBE}", "", px=1)
            pipeline.hset(job, mapping={"status": ""})
            pipeline.delete(job)
            pipeline.rpush(queue, "")
            pipeline.lpop(queue)
            pipeline.sadd(BACKLOG_KEY, PROBE)
            pipeline.sismember(BACKLOG_KEY, PROBE)
            pipeline.srem(BACKLOG_KEY, PROBE)
            pipeline.llen(queue)
            pipeline.zadd(DELAYED_KEY, {PROBE: "inf"})
            pipeline.zrem(DELAYED_KEY, PROBE)
            pipeline.exists(Scheduler.scheduler_lock_key)
            # Rate limits use scripts; without them each process counts separately.
            pipeline.eval(_SCRIPT, 1, f"{LIMITS_PREFIX}:{PROBE}")
            pipeline.execute()

    def push(
        self, records: Iterable[PendingMessage], *, members: Sequence[bytes] = (), is_bounded: bool = True
    ) -> None:
        """Push `records` to RQ, in pipelines of 100. Raises redis.RedisError.

        What exceeds the bound of its queue stays in SQL, and the queue is marked as one with a backlog.

        Args:
            records: what to push.
            members: the members of rq-scheduler's sorted set to remove, in the order of `records`: each is removed
                with the push of its record, or neither happens.
            is_bounded: whether the bound applies.
        """
        remaining, ended = iter(records), iter(members)
        while batch := list(islice(remaining, PIPELINE_RECORDS)):
            left = self._push_batch(batch, list(islice(ended, PIPELINE_RECORDS)), is_bounded)
            while left:  # what this process knew of the queue is outdated
                left = self._push_batch(left, (), is_bounded)

    def mark_backlog(self, queues: Collection[str]) -> None:
        """Mark queues as ones with a backlog: their workers look for its jobs in SQL. Raises redis.RedisError."""
        if queues:
            self.connection.sadd(BACKLOG_KEY, *queues)
        for queue in queues:
            self.queues.learn(queue, self.queues.bound_of(queue), has_backlog=True)

    def _push_batch(
        self, batch: Sequence[PendingMessage], members: Sequence[bytes], is_bounded: bool
    ) -> list[PendingMessage]:
        """Push what the queues can hold, and mark those that are full as ones with a backlog.

        Returns:
            what was withheld from a queue that has no backlog any more, or can hold more again.
        """
        fitting, withheld = self._divide(batch) if is_bounded else (batch, {})
        queues = list({record.queue: None for record in batch})
        # The mark of a queue that is known to have a backlog is only read: if it is there after the commit, a worker
        # that removes it looks for jobs later.
        full = {queue for queue in withheld if not self.queues.has_backlog(queue)}
        with self.connection.pipeline(transaction=True) as pipeline:
            for record in fitting:
                self._push(pipeline, record)
            for member in members:
                pipeline.zrem(DELAYED_KEY, member)
            for queue in queues:
                pipeline.llen(Queue.redis_queue_namespace_prefix + queue)
                (pipeline.sadd if queue in full else pipeline.sismember)(BACKLOG_KEY, queue)
            replies = pipeline.execute()[-2 * len(queues) :]
        left: list[PendingMessage] = []
        for queue, length, reply in zip(queues, replies[::2], replies[1::2], strict=True):
            if queue in full:
                has_backlog = not reply or length >= self.queues.bound_of(queue)
            else:
                has_backlog = bool(reply)
            self.queues.learn(queue, length, has_backlog)
            if not has_backlog:
                left += withheld.get(queue, ())
        return left

    def _divide(
        self, batch: Sequence[PendingMessage]
    ) -> tuple[list[PendingMessage], Mapping[str, list[PendingMessage]]]:
        """Return what the queues can hold, and the rest by queue."""
        fitting: list[PendingMessage] = []
        withheld: defaultdict[str, list[PendingMessage]] = defaultdict(list)
        room = {record.queue: self.queues.room(record.queue) for record in batch}
        for record in batch:
            is_free = record.goes_first or record.scheduled_at is not None
            if is_free or room[record.queue] > 0:
                room[record.queue] -= not is_free
                fitting.append(record)
            else:
                withheld[record.queue].append(record)
        return fitting, withheld

    def _push(self, pipeline: Any, record: PendingMessage) -> None:
        is_later = record.scheduled_at is not None and record.scheduled_at > utc_now()
        self._save_job(pipeline, record, JobStatus.SCHEDULED if is_later else JobStatus.QUEUED)
        if is_later and record.scheduled_at is not None:
            pipeline.zadd(DELAYED_KEY, {record.id: record.scheduled_at.timestamp()})
        else:
            key = Queue.redis_queue_namespace_prefix + record.queue
            pipeline.sadd(Queue.redis_queues_keys, key)
            (pipeline.lpush if record.goes_first else pipeline.rpush)(key, record.id)

    def _save_job(self, pipeline: Any, record: PendingMessage, status: JobStatus) -> None:
        # Of the fields of `Job.to_dict`, those that RQ's workers and commands read of a job that waits. RQ compresses
        # `data` and reads it uncompressed too.
        data = JSONSerializer.dumps((self.entry_point, None, (), {"record_id": record.id}))
        fields = {
            "created_at": utcformat(utc_now()),
            "data": data,
            "description": record.name,
            "origin": record.queue,
            "result_ttl": self.result_ttl_seconds,
            "status": status,
            "timeout": record.timeout_seconds,
        }
        pipeline.hset(Job.key_for(record.id), mapping=fields)
