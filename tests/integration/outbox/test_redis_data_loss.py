"""Pushes that arrive in part, and a wiped Redis that contained much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
import redis
import sqlalchemy as sa
import time_machine

from flask_belfry.core.clock import utc_now
from flask_belfry.outbox import JobRecord, JobRequest, JobState, enqueue_many, publisher
from flask_belfry.outbox.publisher import DELAYED_KEY, PIPELINE_RECORDS
from flask_belfry.outbox.relay import relay
from flask_belfry.scheduler.scheduler import BelfryScheduler

QUEUE = "rq:queue:default"
TWO_AND_A_HALF_PIPELINES = 2 * PIPELINE_RECORDS + PIPELINE_RECORDS // 2
SOME_RECORDS_BYTES = 100_000
once_is_enough = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def _long_queues(settings) -> None:
    settings["WORKER_BATCH"] = "1000"  # the most ids that publishers let a queue hold


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
        assert relay(publisher(app)).pushed == len(ids) - PIPELINE_RECORDS
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
