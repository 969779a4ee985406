"""Workers whose Redis does not answer, or has lost their registration."""

from __future__ import annotations

import time
from functools import partial

import pytest
import redis
import sqlalchemy as sa
from rq import Queue, Worker

from flask_belfry.outbox import WorkerProcess
from flask_belfry.outbox.broker import connect
from flask_belfry.workers.forking import ForkingWorker
from flask_belfry.workers.threaded import ThreadedWorker
from tests.servers import wait_until

once_is_enough = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@once_is_enough
@pytest.mark.parametrize("kind", [ThreadedWorker, ForkingWorker])
def test_a_redis_that_does_not_answer_stops_no_heartbeat(settings, request, valkey, kind):
    settings["BROKER_TIMEOUT_SECONDS"] = "0.04"
    session = request.getfixturevalue("session")
    worker = kind(["default"], connection=valkey.client())
    valkey.freeze()
    try:
        for _ in range(3):
            began = time.monotonic()
            worker._beat()
            assert time.monotonic() - began < worker._app.config["RESCUE_AFTER_SECONDS"] / 2
    finally:
        valkey.thaw()
    assert session.scalar(sa.select(WorkerProcess.kind).where(WorkerProcess.name == worker.name)) == kind.kind


@once_is_enough
def test_a_worker_is_shown_to_rqs_tools_again_when_redis_has_forgotten_it(app, broker, valkey):
    worker = ForkingWorker(["heavy"], connection=valkey.client())
    worker._beat()
    broker.flushall()
    worker._beat()
    (found,) = Worker.all(connection=broker)
    assert (found.name, found.pid, found.queue_names()) == (worker.name, worker.pid, ["heavy"])
    # Else `rq info` would leave it out as soon as another queue has had a job.
    assert Queue.all(connection=broker) == worker.queues
    worker.teardown()
    assert Worker.all(connection=broker) == []


@once_is_enough
def test_a_worker_hears_rqs_commands_again_after_its_redis_was_silent(app, broker, valkey, monkeypatch):
    monkeypatch.setattr("flask_belfry.workers.registration.REDIS_TIMEOUT_SECONDS", 0.1)
    worker = ThreadedWorker(["default"], connection=valkey.client())
    worker._beat()
    has_listener = partial(broker.pubsub_numsub, worker.pubsub_channel_name)
    broker.client_kill_filter(_type="pubsub")
    valkey.freeze()
    try:
        with pytest.raises(redis.TimeoutError):  # longer than the worker waits for it
            connect(valkey.url, connect_timeout_seconds=1, timeout_seconds=0.5).ping()
    finally:
        valkey.thaw()
    wait_until(lambda: has_listener() == [(worker.pubsub_channel_name.encode(), 1)])
    worker.teardown()


@once_is_enough
def test_two_workers_of_one_name_are_distinguished(app, valkey):
    first, second = (ThreadedWorker(["default"], name="ours", connection=valkey.client()) for _ in range(2))
    assert first.name != second.name
    assert first.name.startswith("ours-")
