"""Cancelling pending and running jobs."""

from __future__ import annotations

import threading
import time

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.db import db
from flask_belfry.execution import attempts, check_cancelled, claim, executor
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.outbox import JobRecord, JobState, cancel, enqueue, retry
from flask_belfry.outbox.models import AttemptOutcome
from tests.domain import Ticket, behaviour
from tests.job_records import asked, attempts_of, read
from tests.servers import wait_until


def test_a_waiting_job_is_cancelled_at_once(session, work):
    runs = []
    behaviour["act"] = lambda session, ticket_id: runs.append(1)
    id = asked(session)
    assert cancel([id]) == ([id], [])
    session.commit()
    work()
    assert runs == []
    assert read(session, id).state is JobState.CANCELLED
    assert retry([id]) == [id]
    session.commit()
    work()
    assert runs == [1]


def test_a_running_job_is_cancelled_when_it_asks(app, session, work):
    started = threading.Event()

    def act(session: Session, ticket_id: int) -> None:
        session.add(Ticket(title="not to stay"))
        started.set()
        while True:
            check_cancelled()
            time.sleep(0.05)

    behaviour["act"] = act
    id = asked(session)

    def ask_to_stop() -> None:
        started.wait(10)
        with app.app_context():
            assert cancel([id]) == ([], [id])
            db.session.commit()

    thread = threading.Thread(target=ask_to_stop)
    thread.start()
    work()
    thread.join()
    record = read(session, id)
    assert record.state is JobState.CANCELLED
    assert attempts_of(session, id)[0].outcome is AttemptOutcome.CANCELLED
    assert session.scalars(sa.select(Ticket)).all() == []


def test_a_running_job_that_was_asked_to_stop_and_fails_is_not_retried(app, session):
    def act(session, ticket_id: int) -> None:
        raise RuntimeError("failed on its own")

    behaviour["act"] = act
    id = enqueue("test.act")
    session.commit()
    (item,) = claim.claim(session, [id], "w")
    assert cancel([id]) == ([], [id])
    session.commit()
    executor.run(app, [item], no_limit)
    assert session.get_one(JobRecord, id, populate_existing=True).state is JobState.CANCELLED


@pytest.mark.parametrize(
    "end",
    [
        attempts.release,
        lambda session, item: attempts.interrupt(session, item, "SIGKILL"),
        lambda session, item: attempts.interrupt(session, item, "another", attempts.Part.NONE),
    ],
    ids=["released", "killed", "beside a killed one"],
)
def test_a_job_that_is_to_stop_does_not_run_again_after_its_worker_left_it(session, end):
    id = asked(session)
    (item,) = claim.claim(session, [id], "w")
    assert cancel([id]) == ([], [id])
    session.commit()
    assert end(session, item) is JobState.CANCELLED
    session.commit()
    record = read(session, id)
    assert (record.state, record.attempt) == (JobState.CANCELLED, 1)
    assert [attempt.outcome for attempt in attempts_of(session, id)] == [AttemptOutcome.CANCELLED]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_request_that_is_committed_while_its_worker_leaves_the_job_is_not_overlooked(app, session):
    id = asked(session)
    (item,) = claim.claim(session, [id], "w")
    session.commit()
    assert cancel([id]) == ([], [id])  # not committed yet
    states: list[JobState | None] = []

    def release() -> None:
        with app.app_context():
            states.append(attempts.release(db.session(), item))
            db.session.commit()

    thread = threading.Thread(target=release)
    thread.start()
    is_waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with db.engine.connect() as other:
        wait_until(lambda: other.execute(is_waiting).scalar() == 1, seconds=10)
    session.commit()
    thread.join(10)
    assert states == [JobState.CANCELLED]
    assert read(session, id).state is JobState.CANCELLED
