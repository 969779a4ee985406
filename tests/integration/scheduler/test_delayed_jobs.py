"""Delayed jobs: their timers in Redis, and the times that SQL defines."""

from __future__ import annotations

from unittest.mock import ANY

import pytest
import redis
import sqlalchemy as sa

from flask_belfry.execution import claim
from flask_belfry.outbox import JobRecord, JobState, enqueue, publisher
from flask_belfry.outbox.pending import PendingMessage
from flask_belfry.outbox.relay import relay
from tests.clocks import QUEUE, TICK, TIMERS, one_pass, scheduler


def test_a_timer_whose_record_could_not_be_pushed_stays(app, session, clock, broker, monkeypatch):
    ours = scheduler(app)
    id = enqueue("test.act", delay=5)
    session.commit()
    clock.shift(10)

    def die(*args: object, **options: object) -> None:
        raise redis.ConnectionError

    monkeypatch.setattr(publisher(app), "push", die)
    with pytest.raises(redis.ConnectionError):
        ours.enqueue_jobs()
    assert broker.zscore(TIMERS, id) is not None


def test_a_push_and_the_end_of_its_timer_are_one_transaction_of_redis(app, session, broker):
    id = enqueue("test.act", delay=5)
    session.commit()
    record = publisher(app)
    seen = []
    pipeline = record.connection.pipeline

    def spy(transaction: bool = True, **options: object):
        seen.append(transaction)
        return pipeline(transaction=transaction, **options)

    record.connection.pipeline = spy
    record.push([PendingMessage(id, "test.act", "default", 2)], members=[id.encode()])
    assert seen == [True]
    assert broker.zscore(TIMERS, id) is None


def test_a_timer_that_is_too_early_waits_for_the_time_that_sql_gives(app, session, clock, broker):
    id = enqueue("test.act", delay=100)
    session.commit()
    due = broker.zscore(TIMERS, id)
    broker.zadd(TIMERS, {id: 1})
    scheduler(app).enqueue_jobs()
    assert broker.llen("rq:queue:default") == 0
    assert broker.zscore(TIMERS, id) == pytest.approx(due)


def test_the_relay_ends_the_timers_of_what_it_pushes(app, session, clock, broker):
    id = enqueue("test.act", delay=5)
    session.commit()
    clock.shift(20)
    assert relay(publisher(app)).pushed == 1
    assert broker.zscore(TIMERS, id) is None


def test_a_worker_whose_clock_is_behind_does_not_refuse_what_the_scheduler_gives_it(app, session, clock, broker):
    id = enqueue("test.act", delay=5)
    session.commit()
    clock.shift(5)
    scheduler(app).enqueue_jobs()
    assert broker.lrange(QUEUE, 0, -1) == [id.encode()]
    clock.shift(-0.5)
    assert [item.id for item in claim.claim(session, [id], "w")] == [id]


def test_what_the_scheduler_pushes_is_pending_by_then(app, session, clock, broker, monkeypatch):
    """A worker fetches it immediately: if it were still scheduled, a worker with a slow clock would not claim it."""
    id = enqueue("test.act", delay=5)
    session.commit()
    clock.shift(5)
    pusher, states = publisher(app), []
    push = pusher.push

    def spy(*args, **options) -> None:
        states.append(session.scalar(sa.select(JobRecord.state).where(JobRecord.id == id)))
        session.rollback()
        push(*args, **options)

    monkeypatch.setattr(pusher, "push", spy)
    scheduler(app).enqueue_jobs()
    assert states == [JobState.PENDING]


def test_a_tick_that_redis_has_lost_is_set_again_at_once(app, session, clock, broker):
    ours = scheduler(app)
    one_pass(ours)
    broker.zrem(TIMERS, TICK)
    ours.enqueue_jobs()
    assert broker.zscore(TIMERS, TICK) is not None


def test_timers_under_other_spellings_of_an_id_do_not_stay(app, session, clock, broker):
    id = enqueue("test.act", delay=100)
    session.commit()
    true_time = broker.zscore(TIMERS, id)
    broker.zadd(TIMERS, {f"{{{id}}}": 1, id.upper(): -1, id: 1})
    scheduler(app).enqueue_jobs()
    timers = dict(broker.zrange(TIMERS, 0, -1, withscores=True))
    assert timers == {id.encode(): pytest.approx(true_time), TICK.encode(): ANY}
