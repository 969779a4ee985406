"""The rescuer: jobs of a crashed worker are released, and no others."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa
import time_machine

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.execution import attempts, claim, heartbeat
from flask_belfry.outbox import JobAttempt, JobRecord, JobState, WorkerProcess, enqueue, publisher
from flask_belfry.outbox.broker import connect
from flask_belfry.outbox.models import QUARANTINE, AttemptOutcome
from flask_belfry.outbox.relay import relay
from flask_belfry.scheduler.rescuer import rescue
from tests.domain import fall_silent
from tests.job_records import read, state_of

QUEUE = "rq:queue:default"


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


def claimed(session, worker: str) -> str:
    id = enqueue("test.act")
    session.commit()
    claim.claim(session, [id], worker)
    return id


def test_a_fresh_claim_of_a_worker_that_registers_only_now_is_left_alone(app, session):
    id = claimed(session, "registers-later")
    assert rescue(session) == 0
    assert state_of(session, id) is JobState.RUNNING


def test_a_worker_that_signed_off_holds_nothing_however_fresh_its_heartbeat(app, session):
    heartbeat.register(session, "gone", "light", ["default"])
    id = claimed(session, "gone")
    fall_silent(session)
    heartbeat.beat(session, "gone")
    heartbeat.sign_off(session, "gone")
    assert rescue(session) == 1
    assert state_of(session, id) is JobState.PENDING


def test_of_jobs_that_a_silent_worker_held_together_none_is_counted(app, session):
    first, second, alone = claimed(session, "two"), claimed(session, "two"), claimed(session, "one")
    session.execute(sa.update(JobRecord).values(interruptions=1))
    fall_silent(session)
    assert rescue(session) == 3
    found = {id: (read(session, id).interruptions, read(session, id).suspicion) for id in (first, second, alone)}
    assert found == {first: (1, 1), second: (1, 1), alone: (2, 2)}


def test_a_silent_worker_fails_only_a_job_that_was_to_run_alone(app, session):
    beside, alone = claimed(session, "one"), claimed(session, "quarantine")
    session.execute(sa.update(JobRecord).values(interruptions=2))
    session.execute(sa.update(JobRecord).where(JobRecord.id == alone).values(suspicion=QUARANTINE))
    fall_silent(session)
    assert rescue(session) == 2
    assert (state_of(session, beside), state_of(session, alone)) == (JobState.PENDING, JobState.FAILED)


def test_a_worker_recovers_neither_fresh_claims_nor_those_of_others(app, session):
    fresh, others = claimed(session, "w"), claimed(session, "another")
    assert heartbeat.recover_orphans(session, "w", []) == 0
    fall_silent(session)
    assert heartbeat.recover_orphans(session, "w", []) == 1
    assert state_of(session, fresh) is JobState.PENDING
    assert state_of(session, others) is JobState.RUNNING


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_worker_whose_clock_is_wrong_sends_heartbeats_by_the_databases(app, session, hours):
    with time_machine.travel(utc_now() + timedelta(hours=hours)):
        heartbeat.register(session, "new", "light", ["default"])
        heartbeat.register(session, "w", "light", ["default"])
        heartbeat.beat(session, "w")
        id = claimed(session, "w")
        assert heartbeat.recover_orphans(session, "w", []) == 0
    assert rescue(session) == 0
    moments = [
        *session.execute(sa.select(WorkerProcess.heartbeat_at)).scalars(),
        *session.execute(sa.select(JobRecord.started_at).where(JobRecord.id == id)).scalars(),
    ]
    assert [abs(moment - utc_now()) < timedelta(minutes=1) for moment in moments] == [True] * 3


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_scheduler_whose_clock_is_wrong_judges_by_the_databases(app, session, hours):
    heartbeat.register(session, "alive", "light", ["default"])
    heartbeat.register(session, "dead", "light", ["default"])
    kept, lost = claimed(session, "alive"), claimed(session, "dead")
    fall_silent(session)
    heartbeat.beat(session, "alive")
    with time_machine.travel(utc_now() + timedelta(hours=hours)):
        assert rescue(session) == 1
    assert (state_of(session, lost), state_of(session, kept)) == (JobState.PENDING, JobState.RUNNING)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_a_frozen_worker_has_locked_stops_neither_the_rescue_nor_the_relay_nor_a_claim(app, session, broker):
    _, frozen_running = claimed(session, "dead"), claimed(session, "dead")
    fall_silent(session)
    waiting, frozen_waiting = enqueue("test.act"), enqueue("test.act")
    session.commit()
    broker.flushall()
    with db.engine.connect() as frozen:
        locked = sa.update(JobRecord).where(JobRecord.id.in_([frozen_running, frozen_waiting]))
        frozen.execute(locked.values(result="half way"))
        assert rescue(session) == 1
        with time_machine.travel(utc_now() + timedelta(seconds=10)):
            assert relay(publisher(app)).pushed == 1
        assert state_of(session, waiting) is JobState.QUEUED
        session.rollback()
        assert [item.id for item in claim.claim(session, [frozen_waiting, waiting], "w")] == [waiting]
    assert rescue(session) == 1
    assert [item.id for item in claim.claim(session, [frozen_waiting], "w")] == [frozen_waiting]
