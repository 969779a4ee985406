"""At the edges: whom the rescue and the recovery of orphans leave alone."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
import time_machine

from app.columns import utc_now
from app.outbox import JobRecord, JobState, enqueue, publisher, relay
from jobs.engine import claim, heartbeat
from jobs.engine.rescue import rescue


def claimed(session, worker: str) -> str:
    id = enqueue("test.act")
    session.commit()
    claim.claim(session, [id], worker)
    return id


def state_of(session, id: str) -> JobState:
    session.rollback()
    return session.scalar(sa.select(JobRecord.state).where(JobRecord.id == id))


def test_a_fresh_claim_of_a_worker_that_registers_only_now_is_left_alone(app, session):
    id = claimed(session, "registers-later")
    assert rescue(session) == 0
    assert state_of(session, id) is JobState.RUNNING


def test_a_worker_that_signed_off_holds_nothing_however_fresh_its_heartbeat(app, session):
    heartbeat.register(session, "gone", "light", ["default"])
    id = claimed(session, "gone")
    with time_machine.travel(utc_now() + timedelta(seconds=30)):
        heartbeat.beat(session, "gone")
        heartbeat.sign_off(session, "gone")
        assert rescue(session) == 1
    assert state_of(session, id) is JobState.PENDING


def test_a_worker_recovers_neither_fresh_claims_nor_those_of_others(app, session):
    fresh, others = claimed(session, "w"), claimed(session, "another")
    assert heartbeat.recover_orphans(session, "w", []) == 0
    with time_machine.travel(utc_now() + timedelta(seconds=30)):
        assert heartbeat.recover_orphans(session, "w", []) == 1
    assert state_of(session, fresh) is JobState.PENDING
    assert state_of(session, others) is JobState.RUNNING


def test_the_relay_leaves_what_was_just_given_back_to_its_publisher(app, session, broker):
    with time_machine.travel(utc_now() - timedelta(seconds=60)):
        id = enqueue("test.act")
        session.commit()
    (item,) = claim.claim(session, [id], "w")
    claim.give_back(session, [item])
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
