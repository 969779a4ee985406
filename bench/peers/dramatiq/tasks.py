"""Dramatiq: an actor that does nothing."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=os.environ["REDIS_URL"]))


@dramatiq.actor
def noop(n: int) -> None:
    """Does nothing."""


def send(count: int) -> None:
    """Asks for it so many times."""
    for n in range(count):
        noop.send(n)
