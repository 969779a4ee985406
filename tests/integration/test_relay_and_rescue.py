"""Invariant 2, first half: committed jobs reach RQ, and the jobs of a crashed worker reach another."""

from __future__ import annotations

from datetime import timedelta

import pytest
import redis
import sqlalchemy as sa
import time_machine

from flask_belfry.core.clock import utc_now
from flask_belfry.execution import attempts, claim, heartbeat
from flask_belfry.outbox import JobAttempt, JobRecord, JobState, WorkerProcess, enqueue, prune_records, publisher
from flask_belfry.outbox.broker import CircuitBreaker, connect
from flask_belfry.outbox.models import AttemptOutcome
from flask_belfry.outbox.relay import relay
from flask_belfry.scheduler.rescuer import rescue
from tests.domain import behaviour, fall_silent
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


def test_the_breaker_lets_nobody_wait_for_a_dead_broker(app, session, away):
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


def test_a_dead_workers_jobs_go_back_and_a_living_ones_stay(app, session, broker):
    heartbeat.register(session, "dead", "light", ["default"])
    heartbeat.register(session, "alive", "light", ["default"])
    lost, kept = enqueue("test.act"), enqueue("test.act")
    session.commit()
    claim.claim(session, [lost], "dead")
    claim.claim(session, [kept], "alive")
    broker.flushall()
    fall_silent(session)
    heartbeat.beat(session, "alive")
    session.execute(sa.update(WorkerProcess).where(WorkerProcess.name == "dead").values(host="another-host"))
    assert rescue(session) == 1
    assert rescue(session) == 0
    told = session.scalars(sa.select(JobAttempt)).one()
    assert (told.worker, told.host, told.outcome) == ("dead", "another-host", AttemptOutcome.INTERRUPTED)
    assert state_of(session, lost) is JobState.PENDING
    assert state_of(session, kept) is JobState.RUNNING
    assert broker.lrange(QUEUE, 0, -1) == [lost.encode()]


def test_an_interrupted_job_goes_before_those_that_wait(app, session, broker):
    interrupted = enqueue("test.act")
    session.commit()
    (item,) = claim.claim(session, [interrupted], "dead")
    broker.flushall()
    waiting = enqueue("test.act")
    session.commit()
    attempts.interrupt(session, item, "SIGKILL")
    session.commit()
    assert broker.lrange(QUEUE, 0, -1) == [interrupted.encode(), waiting.encode()]


def test_the_rescue_needs_no_redis(app, session, broker):
    heartbeat.register(session, "dead", "light", ["default"])
    id = enqueue("test.act")
    session.commit()
    claim.claim(session, [id], "dead")
    publisher(app).connection = connect("redis://127.0.0.1:1", connect_timeout_seconds=0.04, timeout_seconds=0.04)
    fall_silent(session)
    assert rescue(session) == 1
    assert state_of(session, id) is JobState.PENDING


def test_a_claim_whose_answer_was_lost_is_interrupted_by_its_own_worker(app, session):
    heartbeat.register(session, "w", "light", ["default"])
    held, orphan = enqueue("test.act"), enqueue("test.act")
    session.commit()
    claim.claim(session, [held, orphan], "w")
    fall_silent(session)
    assert heartbeat.recover_orphans(session, "w", [held]) == 1
    assert state_of(session, held) is JobState.RUNNING
    assert state_of(session, orphan) is JobState.PENDING
    session.rollback()
    record = session.get(JobRecord, orphan)
    assert (record.attempt, record.interruptions) == (0, 1)


def test_pruning_keeps_failed_jobs_longer(session):
    ids = {state: enqueue("test.act") for state in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)}
    live = enqueue("test.act")
    for state, id in ids.items():
        ended = {"state": state, "finished_at": utc_now() - timedelta(days=20)}
        session.execute(sa.update(JobRecord).where(JobRecord.id == id).values(ended))
    old = WorkerProcess(name="old", kind="light", host="h", pid=1, heartbeat_at=utc_now() - timedelta(days=3))
    session.add(old)
    session.commit()
    deleted = prune_records(session, older_than=timedelta(days=14), failed_older_than=timedelta(days=90))
    session.commit()
    assert deleted == 2
    assert set(session.scalars(sa.select(JobRecord.id))) == {ids[JobState.FAILED], live}
    assert session.scalars(sa.select(WorkerProcess)).all() == []
