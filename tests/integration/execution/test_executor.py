"""Executing a job: its result, its failure, its retries, its context."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa
import time_machine
from sqlalchemy.orm import Session

from flask_belfry.changes import Actor, Subject, use_actor
from flask_belfry.core.clock import utc_now
from flask_belfry.execution import claim
from flask_belfry.outbox import JobState, enqueue
from flask_belfry.outbox.models import AttemptOutcome
from tests.domain import Ticket, behaviour
from tests.executions import run
from tests.job_records import asked, attempts_of, read


def test_a_job_runs_and_its_result_is_kept(session, work):
    behaviour["act"] = lambda session, ticket_id: {"seen": ticket_id}
    id = asked(session, ticket_id=7)
    work()
    record = read(session, id)
    assert record.state is JobState.COMPLETED
    assert record.result == {"seen": 7}
    assert record.attempt == 1
    assert record.started_at <= record.finished_at
    assert attempts_of(session, id) == []


def test_a_job_that_fails_leaves_nothing_behind_and_is_retried_later(session, work, broker):
    def act(session: Session, ticket_id: int) -> None:
        session.add(Ticket(title="half done"))
        session.flush()
        raise RuntimeError("no luck")

    behaviour["act"] = act
    id = asked(session)
    before = utc_now()
    work()
    record = read(session, id)
    assert session.scalars(sa.select(Ticket.title)).all() == []
    assert (record.state, record.attempt) == (JobState.RETRYABLE, 1)
    assert timedelta(seconds=59) < record.scheduled_at - before < timedelta(seconds=75)
    assert record.error_type == "RuntimeError"
    assert record.error_message == "no luck"
    assert broker.zscore("rq:scheduler:scheduled_jobs", id) == pytest.approx(record.scheduled_at.timestamp())
    (attempt,) = attempts_of(session, id)
    assert attempt.outcome is AttemptOutcome.FAILED
    assert "half done" not in attempt.error_message
    assert "raise RuntimeError" in attempt.traceback


def test_attempts_are_used_up_then_the_job_fails(app, session, broker):
    def act(session: Session, ticket_id: int) -> None:
        raise RuntimeError("never")

    behaviour["act"] = act
    id = asked(session)
    with time_machine.travel(utc_now(), tick=True) as clock:
        for number in (1, 2, 3):
            (item,) = claim.claim(session, [id], "w")
            assert item.attempt == number
            run(app, item)
            clock.shift(200)
    record = read(session, id)
    assert record.state is JobState.FAILED
    assert [attempt.number for attempt in attempts_of(session, id)] == [1, 2, 3]


def test_a_job_knows_why_it_exists(session, work):
    from flask_belfry.changes import current_actor

    seen = []
    behaviour["act"] = lambda session, ticket_id: seen.append(current_actor())
    with use_actor(Actor(user_id=3, request_id="request-1")):
        id = enqueue("test.act", subject=Subject("ticket", "9"))
    session.commit()
    work()
    record = read(session, id)
    assert (record.subject_type, record.subject_id) == ("ticket", "9")
    assert (record.user_id, record.request_id) == (3, "request-1")
    assert seen == [Actor(3, "request-1", id)]
