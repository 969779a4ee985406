"""Unique keys and singleton jobs."""

from __future__ import annotations

import pytest

from flask_belfry.db import BelfrySession, db
from flask_belfry.execution import RetryPolicy, attempts, claim
from flask_belfry.outbox import JobArgumentError, enqueue, registry
from tests.domain import behaviour


def test_one_live_job_per_unique_key(session, work):
    behaviour["act"] = lambda session, ticket_id: None
    first = enqueue("test.act", unique_key="report/1")
    assert enqueue("test.act", unique_key="report/1") == first
    session.commit()
    assert enqueue("test.act", unique_key="report/1") == first
    session.commit()
    work()
    session.rollback()
    second = enqueue("test.act", unique_key="report/1")
    assert second != first


@pytest.mark.parametrize("is_singleton", [False, True])
def test_a_key_that_is_unique_while_waiting_is_free_once_its_job_is_claimed(session, request, is_singleton):
    registry.job("test.single", is_singleton=True, unique_while_waiting=True)(lambda session: None)
    request.addfinalizer(lambda: registry.forget("test.single"))

    def ask():
        id = enqueue("test.single") if is_singleton else enqueue("test.act", unique_key="a", unique_while_waiting=True)
        session.commit()
        return id

    first = ask()
    assert ask() == first
    (running,) = claim.claim(session, [first], "a worker")
    second = ask()
    assert (second == first, ask()) == (False, second)
    # It waits again, beside the one that was enqueued meanwhile: neither is lost.
    attempts.fail(session, running, RuntimeError("again"), RetryPolicy(delays_seconds=(60,)))
    session.commit()
    claim.claim(session, [second], "a worker")
    assert ask() not in (first, second)
    with pytest.raises(JobArgumentError, match="unique_while_waiting: must come with a unique_key"):
        enqueue("test.act", unique_while_waiting=True)


def test_a_job_that_an_open_transaction_was_given_by_its_key_is_not_claimed_before_that_ends(session):
    """It would read its data before the other job's are committed, and no job would process those."""
    if session.get_bind().dialect.name == "sqlite":
        pytest.skip("SQLite has one writer")
    first = enqueue("test.act", unique_key="a", unique_while_waiting=True)
    session.commit()
    assert enqueue("test.act", unique_key="a", unique_while_waiting=True) == first
    with BelfrySession(db=db) as worker:
        assert claim.claim(worker, [first], "a worker") == []
        session.commit()
        assert [each.id for each in claim.claim(worker, [first], "a worker")] == [first]


def test_a_singleton_lives_once_whichever_process_enqueues_it(session):
    first = enqueue("reservations.sweep_overdue")
    assert enqueue("reservations.sweep_overdue") == first
    with pytest.raises(JobArgumentError, match="its own unique key"):
        enqueue("reservations.sweep_overdue", unique_key="another")
    session.commit()
