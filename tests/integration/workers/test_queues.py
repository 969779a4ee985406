"""Ids in the queues of Redis: only those of job records run, and all of them."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping

import pytest
from rq import Queue
from rq.serializers import DefaultSerializer, JSONSerializer

from flask_belfry.db.columns import new_id
from flask_belfry.outbox import JobState
from flask_belfry.workers.forking import ForkingWorker
from flask_belfry.workers.threaded import ThreadedWorker
from tests.domain import behaviour
from tests.job_records import asked, read
from tests.servers import wait_until


def test_a_burst_looks_again_into_a_queue_that_was_at_its_prefetch_limit(app, session, work, monkeypatch):
    """Its one thread is idle while the completion of the first job, which changed nothing, is being committed."""
    app.config["WORKER_THREADS"] = 1
    fetch = ThreadedWorker._fetch

    def fetch_late(worker: ThreadedWorker, capacity: Mapping[str, int], *, block: bool) -> list[str]:
        if len(capacity) < len(worker.queues):
            wait_until(lambda: not worker._in_flight)
        return fetch(worker, capacity, block=block)

    monkeypatch.setattr(ThreadedWorker, "_fetch", fetch_late)
    behaviour["act"] = lambda session, ticket_id: time.sleep(0.6)  # long: the worker holds one at a time
    ids = [asked(session, ticket_id=n) for n in range(3)]
    work()
    assert [read(session, id).state for id in ids] == [JobState.COMPLETED] * 3


def test_only_ids_travel_through_redis_and_nothing_is_pickled(session, broker):
    id = asked(session, "test.greet", ticket_id=4711)
    stored = broker.hgetall(f"rq:job:{id}")
    payload = json.loads(stored[b"data"])
    assert payload == ["flask_belfry.workers.entry.run", None, [], {"record_id": id}]
    assert b"4711" not in b"".join(stored.values())


def test_foreign_and_unknown_ids_in_a_queue_delay_no_job(session, work, broker):
    runs = []
    behaviour["act"] = lambda session, ticket_id: runs.append(1)
    broker.rpush("rq:queue:default", "not-a-uuid", new_id(), b"\xff\xfe")
    id = asked(session)
    work()
    assert runs == [1]
    assert read(session, id).state is JobState.COMPLETED


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("serializer", [JSONSerializer, DefaultSerializer])
@pytest.mark.parametrize("worker_class", [ThreadedWorker, ForkingWorker])
def test_a_forged_job_of_rq_runs_nothing(session, work, valkey, broker, tmp_path, worker_class, serializer):
    """A client of Redis can write a job with any function, also under the id of one of ours."""
    behaviour["act"] = lambda session, ticket_id: None
    id = asked(session)
    trace = tmp_path / "forged"
    queue = Queue("default", connection=broker, serializer=serializer)
    for forged_id in (new_id(), "forged"):
        queue.enqueue("os.mkdir", str(trace), job_id=forged_id)
    broker.hset(f"rq:job:{id}", "data", zlib.compress(serializer.dumps(("os.mkdir", None, (str(trace),), {}))))
    session.rollback()
    worker_class(["default"], connection=valkey.client()).work(burst=True)
    assert not trace.exists()
    assert broker.llen("rq:queue:default") == 0
    assert read(session, id).state is JobState.COMPLETED


def test_a_late_start_of_the_worker_still_finds_what_was_committed(session, broker, work):
    behaviour["act"] = lambda session, ticket_id: "ran"
    id = asked(session)
    assert broker.llen("rq:queue:default") == 1
    work()
    wait_until(lambda: read(session, id).state is JobState.COMPLETED)


def test_workers_read_json_only(app, broker):
    assert ThreadedWorker(["default"], connection=broker).serializer is JSONSerializer
