"""How many connections a process may have, and what has one that it need not wait for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from flask_belfry.db import db
from flask_belfry.db.engine import OTHER_CONNECTIONS
from flask_belfry.execution import heartbeat
from flask_belfry.outbox import WorkerProcess
from flask_belfry.workers.threaded import ThreadedWorker
from tests.servers import wait_until

THREADS = 7


@pytest.fixture
def settings(settings):
    return settings | {"WORKER_THREADS": str(THREADS), "WEB_THREADS": "3", "HEARTBEAT_SECONDS": "0.1"}


@pytest.fixture
def connections(app) -> Iterator[list[sa.Connection]]:
    """All that the process may have: two for each thread, and some more."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(db.engine.connect()) for _ in range(2 * THREADS + OTHER_CONNECTIONS)]


def test_a_worker_whose_jobs_have_taken_every_connection_still_says_that_it_is_alive(app, valkey, connections):
    def is_alive(name: str) -> bool:
        found = connections[-1].scalar(sa.select(WorkerProcess.kind).where(WorkerProcess.name == name))
        connections[-1].rollback()
        return found is not None

    worker = ThreadedWorker(["default"], connection=valkey.client())
    worker._beat()
    assert is_alive(worker.name)
    with heartbeat.kept_alive(app, "script", "eager"):
        wait_until(lambda: is_alive("script"))
