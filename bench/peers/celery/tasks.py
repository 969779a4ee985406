"""Celery without Django: a task that does nothing."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("tasks", broker=os.environ["REDIS_URL"].replace("unix://", "redis+socket://"))
# No result backend is set, and JSON is the default. Acknowledgement early and a prefetch of 4 are the defaults too.
app.conf.task_ignore_result = True
app.conf.broker_connection_retry_on_startup = True


@app.task
def noop(n: int) -> None:
    """Does nothing."""


def send(count: int) -> None:
    """Asks for it so many times."""
    # One connection for all of them: `delay` alone takes one from the pool each time.
    with app.producer_or_acquire() as producer:
        for n in range(count):
            noop.apply_async((n,), producer=producer)
