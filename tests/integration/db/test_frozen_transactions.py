"""A process that is frozen during a transaction keeps its rows locked: other processes must not wait for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
import time_machine

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.execution import claim, heartbeat
from flask_belfry.outbox import JobRecord, JobState, enqueue, publisher
from flask_belfry.outbox.relay import relay
from flask_belfry.scheduler.rescuer import rescue
from tests.domain import fall_silent
from tests.job_records import state_of


@pytest.fixture
def database_url(postgres, postgres_template) -> Iterator[str]:
    """PostgreSQL only: SQLite has one lock for all, and a timeout for it. Here waiting for a lock fails."""
    name = postgres.create(postgres_template)
    yield postgres.url(name) + "&options=-c%20lock_timeout%3D500"
    postgres.drop(name)


@pytest.fixture
def frozen(app, session) -> Iterator[str]:
    """The id of a record that an open transaction of another process is about to claim."""
    id = enqueue("test.act")
    session.commit()
    with db.engine.connect() as other:
        other.execute(sa.update(JobRecord).where(JobRecord.id == id).values(claims=1))
        yield id


def test_a_worker_claims_the_others_of_its_batch(app, session, frozen):
    free = enqueue("test.act")
    session.commit()
    assert [item.id for item in claim.claim(session, [frozen, free], "w")] == [free]


def test_a_record_that_is_locked_for_a_moment_is_claimed_all_the_same(app, session):
    """Lock it as the relay does when it marks what it has just pushed: the id is in no queue any more."""
    id = enqueue("test.act")
    session.commit()
    is_locked = threading.Event()

    def mark() -> None:
        with app.app_context(), db.engine.begin() as other:
            other.execute(sa.update(JobRecord).where(JobRecord.id == id).values(state=JobState.QUEUED))
            is_locked.set()
            time.sleep(0.15)

    marker = threading.Thread(target=mark)
    marker.start()
    is_locked.wait(10)
    assert [item.id for item in claim.claim(session, [id], "w")] == [id]
    marker.join()


def test_the_rescue_passes_by_what_its_dead_worker_has_locked(app, session, frozen):
    free = enqueue("test.act")
    session.commit()
    heartbeat.register(session, "dead", "light", ["default"])
    claim.claim(session, [free], "dead")
    with db.engine.begin() as other:  # a second one of the dead worker's, which it was about to complete
        stuck = enqueue("test.act")
        session.commit()
        claim.claim(session, [stuck], "dead")
        fall_silent(session)
        other.execute(sa.update(JobRecord).where(JobRecord.id == stuck).values(result=None))
        assert rescue(session) == 1
        assert state_of(session, free) is JobState.PENDING


def test_the_relay_marks_the_others(app, session, broker, frozen):
    free = enqueue("test.act")
    session.commit()
    with time_machine.travel(utc_now() + timedelta(seconds=30)):
        relay(publisher(app))
    assert state_of(session, free) is JobState.QUEUED
