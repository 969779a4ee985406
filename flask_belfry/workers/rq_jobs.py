"""RQ's own words for our states, and its copy of a job kept in step. The only module that speaks both."""

from __future__ import annotations

from collections.abc import Iterable

import redis
from rq.job import Job, JobStatus
from rq.utils import now, utcformat

from flask_belfry.outbox import JobState

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

# What has no copy at RQ (any more) gets none.
_MIRROR = """
for i, key in ipairs(KEYS) do
  if redis.call('exists', key) == 1 then
    redis.call('hset', key, 'ended_at', ARGV[1], 'status', ARGV[i + 2])
    redis.call('expire', key, ARGV[2])
  end
end
"""


def mirror_ends(connection: redis.Redis, ended: Iterable[tuple[str, JobState]], ttl_seconds: int) -> None:
    """Tells RQ how jobs ended, with one command, and lets its copies expire. Raises redis.RedisError.

    Args:
        connection: any client.
        ended: record ids with the states they went to.
        ttl_seconds: how long RQ keeps its copy.
    """
    ended = list(ended)
    keys = [Job.key_for(id) for id, _ in ended]
    connection.eval(_MIRROR, len(keys), *keys, utcformat(now()), ttl_seconds, *(RQ_STATUS[state] for _, state in ended))


def expire_copies(connection: redis.Redis, ids: Iterable[str], ttl_seconds: int) -> None:
    """Lets RQ's copies of jobs expire. Raises redis.RedisError."""
    with connection.pipeline(transaction=False) as pipeline:
        for id in ids:
            pipeline.expire(Job.key_for(id), ttl_seconds)
        pipeline.execute()
