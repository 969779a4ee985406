"""Huey: a task that does nothing."""

from __future__ import annotations

import os

import redis
from huey import RedisHuey

pool = redis.ConnectionPool.from_url(os.environ["REDIS_URL"])
huey = RedisHuey("bench", connection_pool=pool, results=False)


@huey.task()
def noop(n: int) -> None:
    """Does nothing."""


def send(count: int) -> None:
    """Asks for it so many times."""
    for n in range(count):
        noop(n)
