"""RQ: a job that does nothing."""

from __future__ import annotations

import os

import redis
from rq import Queue
from rq.serializers import JSONSerializer


def noop(n: int) -> None:
    """Does nothing."""


def send(count: int) -> None:
    """Asks for it so many times."""
    queue = Queue(connection=redis.Redis.from_url(os.environ["REDIS_URL"]), serializer=JSONSerializer)
    queue.enqueue_many([Queue.prepare_data(noop, args=(n,), result_ttl=0) for n in range(count)])
