"""RQ's own words for our states, and its copy of a job kept in step. The only module that speaks both."""

from __future__ import annotations

from collections.abc import Iterable

import redis
from rq.job import Job, JobStatus
from rq.utils import now, utcformat

from app.outbox import JobState

RQ_STATUS: dict[JobState, JobStatus] = {
    JobState.PENDING: JobStatus.CREATED,
    JobState.SCHEDULED: JobStatus.SCHEDULED,
    JobState.QUEUED: JobStatus.QUEUED,
    JobState.RUNNING: JobStatus.STARTED,
    JobState.RETRYABLE: JobStatus.SCHEDULED,
    JobState.COMPLETED: JobStatus.FINISHED,
    JobState.FAILED: JobStatus.FAILED,
    JobState.CANCELLED: JobStatus.CANCELED,
}


def mirror_ends(connection: redis.Redis, ended: Iterable[tuple[str, JobState]], ttl_seconds: int) -> None:
    """Tells RQ how jobs ended, with one pipeline, and lets its copies expire. Raises redis.RedisError.

    Args:
        connection: any client.
        ended: record ids with the states they went to.
        ttl_seconds: how long RQ keeps its copy.
    """
    with connection.pipeline(transaction=False) as pipeline:
        for id, state in ended:
            key = Job.key_for(id)
            pipeline.hset(key, mapping={"status": RQ_STATUS[state], "ended_at": utcformat(now())})
            pipeline.expire(key, ttl_seconds)
        pipeline.execute()


def expire_copies(connection: redis.Redis, ids: Iterable[str], ttl_seconds: int) -> None:
    """Lets RQ's copies of jobs expire. Raises redis.RedisError."""
    with connection.pipeline(transaction=False) as pipeline:
        for id in ids:
            pipeline.expire(Job.key_for(id), ttl_seconds)
        pipeline.execute()
