"""Claims: a job delivered twice runs once, and a lost claim cannot commit."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.execution import attempts, claim
from flask_belfry.outbox import JobState
from tests.domain import Ticket, behaviour
from tests.executions import run
from tests.job_records import asked, read


def test_a_job_delivered_twice_by_redis_runs_once(session, work, broker):
    runs = []
    behaviour["act"] = lambda session, ticket_id: runs.append(ticket_id)
    id = asked(session, ticket_id=5)
    broker.rpush("rq:queue:default", id, id)
    work()
    broker.rpush("rq:queue:default", id)
    work()
    assert runs == [5]
    assert read(session, id).claims == 1


def test_a_second_delivery_does_not_hasten_a_retry(session, work, broker):
    runs = []

    def act(session: Session, ticket_id: int) -> None:
        runs.append(1)
        raise RuntimeError

    behaviour["act"] = act
    id = asked(session)
    work()
    broker.rpush("rq:queue:default", id)
    work()
    assert len(runs) == 1
    assert read(session, id).state is JobState.RETRYABLE


def test_of_two_claims_the_later_wins_and_the_earlier_cannot_commit(app, session):
    def act(session: Session, ticket_id: int) -> None:
        session.add(Ticket(title="from the late worker"))

    behaviour["act"] = act
    id = asked(session)
    (late,) = claim.claim(session, [id], "thought-dead")
    assert claim.claim(session, [id], "another") == []
    attempts.interrupt(session, late, "thought dead")
    session.commit()
    (current,) = claim.claim(session, [id], "another")
    assert run(app, late) == []
    assert read(session, id).state is JobState.RUNNING
    assert session.scalars(sa.select(Ticket.title)).all() == []
    run(app, current)
    assert read(session, id).state is JobState.COMPLETED
    assert len(session.scalars(sa.select(Ticket.title)).all()) == 1
