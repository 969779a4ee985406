"""Unique for a period: a key is taken for a time, also after its job has been finalized."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa
import time_machine

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.outbox import (
    JobArgumentError,
    JobRecord,
    JobRequest,
    JobState,
    control,
    enqueue,
    enqueue_many,
    prune_records,
)
from flask_belfry.outbox.models import UniquePeriod
from tests.domain import behaviour
from tests.job_records import count, state_of

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _act() -> None:
    behaviour["act"] = lambda session, ticket_id: None


def enqueue_for_an_hour(session, key: str = "k") -> str:
    id = enqueue("test.act", unique_key=key, unique_for=HOUR)
    session.commit()
    return id


def test_a_key_is_taken_for_its_period_also_after_the_end_of_its_job(session, work):
    id = enqueue_for_an_hour(session)
    assert enqueue_for_an_hour(session) == id
    work()
    assert state_of(session, id) is JobState.COMPLETED
    assert enqueue_for_an_hour(session) == id
    assert enqueue_for_an_hour(session, "other") != id
    with time_machine.travel(utc_now() + 1.1 * HOUR):
        second = enqueue_for_an_hour(session)
        assert second != id
        assert enqueue_for_an_hour(session) == second


def test_a_live_job_holds_its_key_beyond_its_period_and_none_begins_for_what_it_refused(session):
    id = enqueue_for_an_hour(session)
    with time_machine.travel(utc_now() + 1.1 * HOUR):
        assert enqueue_for_an_hour(session) == id
        control.cancel([id])
        session.commit()
        assert enqueue_for_an_hour(session) != id


def test_a_live_job_without_a_period_holds_the_key_too(session):
    id = enqueue("test.act", unique_key="k")
    assert enqueue_for_an_hour(session) == id
    assert count(session, UniquePeriod) == 0


@pytest.mark.parametrize("savepoint", [False, True])
def test_a_rollback_leaves_the_key_free(session, savepoint):
    inner = session.begin_nested() if savepoint else session
    lost = enqueue("test.act", unique_key="k", unique_for=HOUR)
    inner.rollback()
    id = enqueue_for_an_hour(session)
    assert id != lost
    assert list(session.scalars(sa.select(JobRecord.id))) == [id]


def test_many_are_enqueued_with_few_statements(session, statements, work):
    def requests(*keys: str) -> list[JobRequest]:
        return [JobRequest(unique_key=key, unique_for=HOUR) for key in keys]

    first = enqueue_many("test.act", requests("a", "b"))
    session.commit()
    work()
    statements.clear()
    ids = enqueue_many("test.act", [*requests("b", "c", "c", "a"), JobRequest(), *requests(*map(str, range(100)))])
    session.commit()
    assert (ids[0], ids[3]) == (first[1], first[0])
    assert ids[1] == ids[2]
    assert len(set(ids)) == 104
    # The periods, those of other jobs, the jobs, and the job of the key that was given twice.
    assert [statement.split()[0] for statement in statements] == ["INSERT", "SELECT", "INSERT", "SELECT"]
    assert count(session, JobRecord) == 2 + 102


def test_a_retry_by_hand_does_not_ask_for_the_key(session, work):
    id = enqueue_for_an_hour(session)
    control.cancel([id])
    session.commit()
    assert control.retry([id]) == [id]
    session.commit()
    work()
    assert state_of(session, id) is JobState.COMPLETED


def test_ended_periods_are_pruned(session):
    with time_machine.travel(utc_now() - 3 * HOUR):
        enqueue_for_an_hour(session, "ended")
    enqueue_for_an_hour(session, "kept")
    prune_records(session, older_than=timedelta(days=1), failed_older_than=timedelta(days=1))
    session.commit()
    assert list(session.scalars(sa.select(UniquePeriod.key))) == ["kept"]


@pytest.mark.parametrize("commits", [True, False])
def test_of_two_transactions_at_the_same_moment_one_takes_the_key(app, session, commits):
    """The second waits for the end of the first."""
    first = enqueue("test.act", unique_key="k", unique_for=HOUR)
    begins, second = threading.Event(), []

    def enqueue_too() -> None:
        with app.app_context():
            db.session.connection()
            begins.set()
            second.append(enqueue("test.act", unique_key="k", unique_for=HOUR))
            db.session.commit()
            db.session.remove()

    thread = threading.Thread(target=enqueue_too)
    thread.start()
    assert begins.wait(10)
    thread.join(0.3)
    assert thread.is_alive()
    if commits:
        session.commit()
    else:
        session.rollback()
    thread.join(10)
    assert (second == [first]) is commits
    assert list(session.scalars(sa.select(JobRecord.id))) == second


@pytest.mark.parametrize(
    "options",
    [
        {"unique_for": HOUR},
        {"unique_for": HOUR, "unique_key": "k", "unique_while_waiting": True},
        {"unique_for": timedelta(0), "unique_key": "k"},
        {"unique_for": timedelta(days=400), "unique_key": "k"},
    ],
)
def test_an_invalid_period_is_refused(session, options):
    with pytest.raises(JobArgumentError, match="unique_for"):
        enqueue("test.act", **options)
