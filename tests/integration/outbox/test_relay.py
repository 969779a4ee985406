"""The relay: committed jobs reach RQ when their publication failed."""

from __future__ import annotations

from datetime import timedelta

import pytest
import redis
import sqlalchemy as sa
import time_machine

from flask_belfry.core.clock import utc_now
from flask_belfry.execution import attempts, claim
from flask_belfry.outbox import JobRecord, JobState, enqueue, publisher
from flask_belfry.outbox.broker import CircuitBreaker, connect
from flask_belfry.outbox.relay import relay
from tests.domain import behaviour
from tests.job_records import state_of

QUEUE = "rq:queue:default"


@pytest.fixture
def away(app):
    """Make the broker unavailable to the publisher until the returned function is called."""
    there = publisher(app).connection
    publisher(app).connection = connect("redis://127.0.0.1:1", connect_timeout_seconds=0.04, timeout_seconds=0.04)

    def back() -> None:
        publisher(app).connection = there

    return back


def test_the_relay_publishes_what_never_arrived(app, session, broker, away):
    id = enqueue("test.act")
    session.commit()
    with pytest.raises(redis.RedisError), time_machine.travel(utc_now() + timedelta(seconds=10)):
        relay(publisher(app))
    away()
    session.rollback()
    assert broker.llen(QUEUE) == 0
    with time_machine.travel(utc_now() + timedelta(seconds=10)):
        report = relay(publisher(app))
    assert (report.pushed, report.marked) == (1, 0)
    assert broker.lrange(QUEUE, 0, -1) == [id.encode()]
    assert state_of(session, id) is JobState.QUEUED


def test_the_relay_marks_what_arrived_by_itself_and_pushes_it_no_second_time(app, session, broker):
    id = enqueue("test.act")
    session.commit()
    with time_machine.travel(utc_now() + timedelta(seconds=10)):
        report = relay(publisher(app))
    assert (report.pushed, report.marked) == (0, 1)
    assert broker.llen(QUEUE) == 1
    assert state_of(session, id) is JobState.QUEUED


def test_the_relay_leaves_the_publisher_its_first_try(app, session, broker, away):
    enqueue("test.act")
    session.commit()
    away()
    assert relay(publisher(app)).pushed == 0


def test_what_redis_lost_is_pushed_again(app, session, broker, work):
    behaviour["act"] = lambda session, ticket_id: None
    ids = [enqueue("test.act") for _ in range(3)]
    session.commit()
    with time_machine.travel(utc_now() + timedelta(seconds=10)):
        relay(publisher(app))
    broker.flushall()
    with time_machine.travel(utc_now() + timedelta(seconds=30)):
        assert relay(publisher(app)).pushed == 3
    work()
    assert {state_of(session, id) for id in ids} == {JobState.COMPLETED}


def test_what_a_worker_popped_and_never_claimed_is_pushed_again(app, session, broker):
    id = enqueue("test.act")
    session.commit()
    assert broker.lpop(QUEUE) == id.encode()  # and then it was killed
    with time_machine.travel(utc_now() + timedelta(seconds=10)):
        assert relay(publisher(app)).pushed == 1
    assert broker.lrange(QUEUE, 0, -1) == [id.encode()]


def test_a_timer_that_did_not_fire_is_the_relays_work(app, session, broker):
    id = enqueue("test.act", delay=5)
    session.commit()
    broker.flushall()
    with time_machine.travel(utc_now() + timedelta(seconds=20)):
        assert relay(publisher(app)).pushed == 1
    assert state_of(session, id) is JobState.QUEUED


def test_with_the_breaker_open_no_caller_waits_for_a_dead_broker(app, session, away):
    breaker = publisher(app).breaker
    assert breaker.admits()
    enqueue("test.act")
    session.commit()
    assert breaker.is_open
    assert not breaker.admits()


def test_an_open_breaker_lets_one_caller_try_after_its_pause():
    breaker = CircuitBreaker(retry_seconds=0)
    breaker.failed()
    assert breaker.admits()
    slow = CircuitBreaker(retry_seconds=60)
    slow.failed()
    assert not slow.admits()
    slow.succeeded()
    assert slow.admits()


def test_the_relay_leaves_what_was_just_released_to_its_publisher(app, session, broker):
    with time_machine.travel(utc_now() - timedelta(seconds=60)):
        id = enqueue("test.act")
        session.commit()
    (item,) = claim.claim(session, [id], "w")
    attempts.release(session, item)
    session.commit()
    broker.flushall()
    assert relay(publisher(app)).pushed == 0


def test_what_the_relay_pushed_again_has_time_to_be_claimed(app, session, broker):
    id = enqueue("test.act")
    long_ago = utc_now() - timedelta(seconds=60)
    session.execute(sa.update(JobRecord).values(state=JobState.QUEUED, enqueued_at=long_ago))
    session.commit()
    broker.flushall()
    assert relay(publisher(app)).pushed == 1
    assert broker.lpop("rq:queue:default") == id.encode()  # a worker has it, and is about to claim it
    assert relay(publisher(app)).pushed == 0
