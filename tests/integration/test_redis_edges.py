"""Outages of Redis in rare cases: pushes that arrive in part, a wiped Redis that contained much."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial

import pytest
import redis
import sqlalchemy as sa
import time_machine
from rq import Queue, Worker

from flask_belfry.core.clock import utc_now
from flask_belfry.execution import claim
from flask_belfry.outbox import JobRecord, JobRequest, JobState, WorkerProcess, enqueue_many, publisher
from flask_belfry.outbox.broker import connect
from flask_belfry.outbox.publisher import DELAYED_KEY, PIPELINE_RECORDS
from flask_belfry.outbox.relay import relay
from flask_belfry.scheduler.scheduler import BelfryScheduler
from flask_belfry.workers.forking import ForkingWorker
from flask_belfry.workers.threaded import ThreadedWorker
from tests.servers import wait_until

QUEUE = "rq:queue:default"
TWO_AND_A_HALF_PIPELINES = 2 * PIPELINE_RECORDS + PIPELINE_RECORDS // 2
SOME_RECORDS_BYTES = 100_000

once_is_enough = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def free_memory(app, broker) -> Iterator[Callable[[], None]]:
    """Have the broker run out of memory in the transaction after the next; return a function that frees it."""
    connection = publisher(app).connection
    begin = connection.pipeline
    begun: list[bool] = []

    def pipeline(transaction: bool = True, **options: object):
        if begun:
            broker.config_set("maxmemory", broker.info("memory")["used_memory"] + SOME_RECORDS_BYTES)
        begun.append(transaction)
        return begin(transaction=transaction, **options)

    def free() -> None:
        connection.pipeline = begin
        broker.config_set("maxmemory", 0)

    connection.pipeline = pipeline
    yield free
    free()


def ask(session, count: int, **options) -> list[str]:
    ids = enqueue_many("test.act", [JobRequest({}, **options) for _ in range(count)])
    session.commit()
    return ids


def queued_ids(broker) -> Counter[str]:
    return Counter(id.decode() for id in broker.lrange(QUEUE, 0, -1))


@once_is_enough
def test_what_arrived_in_part_is_completed_and_not_doubled(app, session, broker, free_memory):
    ids = ask(session, TWO_AND_A_HALF_PIPELINES)
    assert publisher(app).breaker.is_open
    assert queued_ids(broker) == Counter(ids[:PIPELINE_RECORDS])  # a pipeline arrives as a whole, or not at all
    with time_machine.travel(utc_now() + timedelta(seconds=10)):
        with pytest.raises(redis.ResponseError):
            relay(publisher(app))
        free_memory()
        report = relay(publisher(app))
        assert (report.pushed, report.marked) == (len(ids) - PIPELINE_RECORDS, PIPELINE_RECORDS)
        assert relay(publisher(app)).pushed == 0
    assert queued_ids(broker) == Counter(ids)


@once_is_enough
def test_a_wiped_redis_gets_back_all_that_waits_and_every_timer_once(app, session, broker):
    waiting = ask(session, TWO_AND_A_HALF_PIPELINES)
    later = ask(session, TWO_AND_A_HALF_PIPELINES, scheduled_at=utc_now() + timedelta(days=1))
    began = utc_now()
    look_at_everything(app, began + timedelta(seconds=10))
    assert set(session.scalars(sa.select(JobRecord.state))) == {JobState.QUEUED, JobState.SCHEDULED}
    session.rollback()
    broker.flushall()
    for seconds in (21, 25, 29):
        look_at_everything(app, began + timedelta(seconds=seconds))
    assert queued_ids(broker) == Counter(waiting)
    assert {member.decode() for member in broker.zrange(DELAYED_KEY, 0, -1)} == set(later)


def look_at_everything(app, moment: datetime) -> None:
    """Make the passes of a new scheduler until it has nothing more to do immediately."""
    connection = publisher(app).connection
    connection.delete(BelfryScheduler.scheduler_lock_key)
    with time_machine.travel(moment):
        clock = BelfryScheduler(app, connection, publisher(app), [])
        while clock.work_once():
            pass


@once_is_enough
def test_an_id_that_was_popped_and_lost_is_back_within_15_seconds_at_the_worst(app, session, broker):
    """The worst case: the relay has just recorded that it was published."""
    ask(session, 1)
    began = utc_now()
    with time_machine.travel(began + timedelta(seconds=10)):
        assert relay(publisher(app)).marked == 1
        broker.delete(QUEUE)
    last_pass = 15 - app.config["RELAY_SECONDS"]
    with time_machine.travel(began + timedelta(seconds=10 + last_pass)):
        assert relay(publisher(app)).pushed == 1


@once_is_enough
@pytest.mark.parametrize("kind", [ThreadedWorker, ForkingWorker])
def test_a_redis_that_says_nothing_keeps_no_worker_from_its_signs_of_life(settings, request, valkey, kind):
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
def test_two_workers_of_one_name_are_told_apart(app, valkey):
    first, second = (ThreadedWorker(["default"], name="ours", connection=valkey.client()) for _ in range(2))
    assert first.name != second.name
    assert first.name.startswith("ours-")


class SteppedTime:
    """Replaces a scheduler's clock and its stop flag: waiting takes no time and moves the clock.

    Args:
        seconds: when the flag is set.
        at_half: called once when half of them are over.
    """

    def __init__(self, seconds: float, at_half: Callable[[], None]) -> None:
        self._now, self._seconds, self._at_half = 0.0, seconds, [at_half]

    def monotonic(self) -> float:
        self._now += 0.001
        return self._now

    def wait(self, seconds: float) -> None:
        self._now += seconds
        if self._now > self._seconds / 2 and self._at_half:
            self._at_half.pop()()

    def is_set(self) -> bool:
        return self._now >= self._seconds


@once_is_enough
def test_a_scheduler_whose_redis_is_away_for_long_rescues_all_the_same(app, session, monkeypatch):
    (id,) = ask(session, 1)

    def strand() -> None:
        claim.claim(session, [id], "dead")
        session.execute(sa.update(JobRecord).values(started_at=utc_now() - timedelta(minutes=1)))
        session.commit()

    nowhere = connect("redis://127.0.0.1:1", connect_timeout_seconds=1, timeout_seconds=1)
    ours = BelfryScheduler(app, nowhere, publisher(app), [])
    ours._stopping = time = SteppedTime(60, strand)
    monkeypatch.setattr("flask_belfry.scheduler.scheduler.time", time)
    monkeypatch.setattr(ours, "_install_signal_handlers", lambda: None)
    ours.run()
    record = session.get_one(JobRecord, id, populate_existing=True)
    assert (record.state, record.interruptions) == (JobState.PENDING, 1)
