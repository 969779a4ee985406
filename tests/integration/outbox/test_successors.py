"""Successors: jobs enqueued by the commit that completes their predecessor, and cancelled when that one is not."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.changes.sessions import writing_to
from flask_belfry.core.clock import utc_now
from flask_belfry.db import BelfrySession, db
from flask_belfry.db.columns import new_id
from flask_belfry.db.tenancy import scope_of, use_scope
from flask_belfry.execution import claim as claims
from flask_belfry.execution.admission import cancel_expired
from flask_belfry.outbox import (
    Batch,
    JobArgumentError,
    JobRecord,
    JobRequest,
    JobState,
    JobStateError,
    batch,
    cancel,
    cancel_batch,
    enqueue,
    enqueue_many,
    retry,
    sweep_batches,
)
from flask_belfry.outbox.models import BlockedBy
from flask_belfry.outbox.successors import PREDECESSOR_ERROR
from tests.domain import echo
from tests.job_records import asked, count, read, state_of, waits_for_lock
from tests.servers import wait_until

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def complete(session: Session, id: str, result: str | None = None) -> None:
    """Claim and complete a job, and commit; `result` is JSON."""
    (held,) = claims.claim(session, [id], "w")
    assert claims.complete(session, [(held, result)]) == {id}
    session.commit()


def chain_of(session: Session, length: int) -> list[str]:
    """Write jobs each of which is enqueued after the one before, and commit."""
    ids = [enqueue("test.echo")]
    requests = [JobRequest(id=new_id()) for _ in range(length - 1)]
    for request in requests:
        ids += enqueue_many("test.echo", [JobRequest(id=request.id, after=ids[-1])])
    session.commit()
    return ids


def is_blocked(session: Session, id: str) -> bool:
    """Return whether a job waits for its predecessor."""
    record = read(session, id)
    return (record.state, record.blocked_by) == (JobState.BLOCKED, BlockedBy.PREDECESSOR)


@pytest.mark.parametrize("is_running", [False, True])
def test_a_successor_is_enqueued_by_the_commit_that_completes_its_predecessor(session, broker, is_running):
    first = asked(session, "test.echo")
    held = claims.claim(session, [first], "w") if is_running else []
    successor = asked(session, "test.echo", after=first)
    broker.flushall()
    assert is_blocked(session, successor)
    assert claims.claim(session, [successor], "w") == []
    held = held or claims.claim(session, [first], "w")
    claims.complete(session, [(item, None) for item in held])
    session.rollback()
    assert is_blocked(session, successor)
    claims.complete(session, [(item, None) for item in held])
    session.commit()
    record = read(session, successor)
    assert (record.state, record.blocked_by) == (JobState.PENDING, None)
    assert broker.lrange("rq:queue:default", 0, -1) == [successor.encode()]


def test_a_chain_runs_in_order_and_hands_results_on(session, work):
    first = enqueue("test.echo", value="begun")
    second = echo.with_options(after=first, with_result="value").enqueue()
    third = enqueue("test.echo", after=second, with_result="value")
    session.commit()
    work()
    assert [read(session, id).result for id in (first, second, third)] == ["begun"] * 3
    assert read(session, third).args == {"value": "begun"}
    assert read(session, first).finished_at <= read(session, second).started_at


def test_a_successor_of_what_has_ended_is_decided_where_it_is_enqueued(session, work):
    completed, cancelled, failed = (asked(session, name) for name in ("test.echo", "test.echo", "test.fail"))
    complete(session, completed, '"done"')
    cancel([cancelled])
    session.commit()
    work()
    released = asked(session, "test.echo", after=completed, with_result="value")
    assert (state_of(session, released), read(session, released).args) == (JobState.PENDING, {"value": "done"})
    reasons = {cancelled: f"job test.echo {cancelled} was cancelled", failed: f"job test.fail {failed} failed"}
    for id, reason in reasons.items():
        record = read(session, asked(session, "test.echo", after=id))
        assert (record.state, record.error_type) == (JobState.CANCELLED, PREDECESSOR_ERROR)
        assert record.error_message == reason


def test_the_successor_of_a_batch_that_has_ended_with_failures_is_cancelled_with_their_number(session, work):
    with batch("sending") as opened:
        ids = [enqueue("test.fail"), enqueue("test.fail"), enqueue("test.echo"), enqueue("test.echo")]
    cancel(ids[2:3])
    session.commit()
    work()
    sweep_batches(session)
    record = read(session, asked(session, "test.echo", after=opened.id))
    assert record.state is JobState.CANCELLED
    assert record.error_message == f"of 4 jobs of batch sending {opened.id}, 2 failed and 1 were cancelled"


@pytest.mark.parametrize("result", ['{"a": 1}', '"' + "x" * 2_001 + '"', "[[1]]"])
def test_a_result_that_does_not_fit_an_argument_cancels_the_successor_with_the_reason(session, result):
    first = asked(session, "test.echo")
    successor = asked(session, "test.echo", after=first, with_result="value")
    last = asked(session, "test.echo", after=successor)
    complete(session, first, result)
    record = read(session, successor)
    assert (record.state, record.error_type) == (JobState.CANCELLED, PREDECESSOR_ERROR)
    assert record.error_message.startswith(f"the result of job {first} cannot be passed as value: ")
    assert read(session, last).error_message == f"job test.echo {successor} was cancelled"


def test_the_end_of_a_failed_or_cancelled_job_cancels_its_successors(session, work):
    failing, stopped = enqueue("test.fail"), enqueue("test.echo")
    after_failing, after_stopped = enqueue("test.echo", after=failing), enqueue("test.echo", after=stopped)
    cancel([stopped])
    session.commit()
    work()
    assert read(session, after_failing).error_message == f"job test.fail {failing} failed"
    assert read(session, after_stopped).error_message == f"job test.echo {stopped} was cancelled"
    assert {read(session, id).error_type for id in (after_failing, after_stopped)} == {PREDECESSOR_ERROR}


@on_postgresql
def test_a_chain_of_1000_is_cancelled_and_retried_as_a_whole(session):
    ids = chain_of(session, 1_000)
    cancel(ids[:1])
    session.commit()
    assert count(session, JobRecord, JobRecord.state == JobState.CANCELLED) == 1_000
    assert read(session, ids[-1]).error_message == f"job test.echo {ids[-2]} was cancelled"
    assert retry(ids[:1]) == ids[:1]
    session.commit()
    assert state_of(session, ids[0]) is JobState.PENDING
    assert count(session, JobRecord, JobRecord.state == JobState.BLOCKED) == 999
    complete(session, ids[0])
    assert [state_of(session, id) for id in ids[1:3]] == [JobState.PENDING, JobState.BLOCKED]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_no_statement_over_many_jobs_has_all_their_ids(session, statements, monkeypatch):
    monkeypatch.setattr("flask_belfry.outbox.successors.IDS_PER_STATEMENT", 50)
    ids = enqueue_many("test.echo", [JobRequest() for _ in range(120)])
    session.commit()
    statements.clear()
    assert set(cancel(ids)[0]) == {*ids}
    session.commit()
    assert set(retry(ids)) == {*ids}
    session.commit()
    assert max(statement.count("?") for statement in statements) < 100


def test_a_successor_cannot_be_retried_while_its_predecessor_has_not_completed(session):
    first, second = chain_of(session, 2)
    cancel([first])
    session.commit()
    assert retry([second]) == []
    session.commit()
    assert state_of(session, second) is JobState.CANCELLED


def test_a_successor_that_has_run_is_retried_also_when_its_predecessor_was_deleted(session, work):
    first = asked(session, "test.echo")
    second = asked(session, "test.fail", after=first)
    work()
    session.execute(sa.delete(JobRecord).where(JobRecord.id == first))
    session.commit()
    assert retry([second]) == [second]
    session.commit()
    assert state_of(session, second) is JobState.PENDING


def test_a_successor_that_a_user_cancelled_is_not_retried_with_its_predecessor(session):
    first, second = chain_of(session, 2)
    other = asked(session, "test.echo", after=first)
    cancel([second])
    cancel([first])
    session.commit()
    assert [read(session, id).error_type for id in (second, other)] == [None, PREDECESSOR_ERROR]
    retry([first])
    session.commit()
    assert state_of(session, second) is JobState.CANCELLED
    assert is_blocked(session, other)


def test_the_successor_of_a_batch_is_enqueued_when_all_of_its_jobs_are_completed(session):
    with batch("sending") as opened:
        ids = enqueue_many("test.echo", [JobRequest(), JobRequest()])
    successor = asked(session, "test.echo", after=opened.id)
    complete(session, ids[0])
    assert is_blocked(session, successor)
    assert claims.claim(session, [successor], "w") == []  # its id may be in a queue, where a tool has pushed it
    complete(session, ids[1])
    assert state_of(session, successor) is JobState.PENDING


def test_the_successor_of_a_batch_with_failures_is_cancelled_until_they_are_retried(session):
    with batch("sending") as opened:
        ids = enqueue_many("test.echo", [JobRequest() for _ in range(10)])
    successor = asked(session, "test.echo", after=opened.id)
    cancel(ids[:2])
    session.commit()
    for id in ids[2:]:
        complete(session, id)
    record = read(session, successor)
    assert (record.state, record.error_type) == (JobState.CANCELLED, PREDECESSOR_ERROR)
    assert record.error_message == f"of 10 jobs of batch sending {opened.id}, 2 were cancelled"
    retry(ids[:2])
    session.commit()
    assert is_blocked(session, successor)
    for id in ids[:2]:
        complete(session, id)
    assert state_of(session, successor) is JobState.PENDING


def test_the_successor_of_a_cancelled_batch_is_cancelled_also_when_all_of_its_jobs_are_completed(session):
    with batch("sending") as opened:
        id = enqueue("test.echo")
    successor = asked(session, "test.echo", after=opened.id)
    (held,) = claims.claim(session, [id], "w")
    cancel_batch(opened.id)
    session.commit()
    claims.complete(session, [(held, None)])
    session.commit()
    assert read(session, successor).error_message == f"batch {opened.id} was cancelled"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"after": new_id()}, "there is no job or batch"),
        ({"after": "first"}, "after: must be the id of a job or a batch"),
        ({"with_result": "value"}, "with_result: must come with after"),
        ({"after": new_id(), "with_result": "other"}, "with_result: must name an argument"),
        ({"after": new_id(), "with_result": "value", "value": 1}, "must not be given as an argument too"),
        ({"after": new_id(), "delay": 5}, "must come without scheduled_at and delay"),
    ],
)
def test_what_is_wrong_with_a_successor_is_refused(session, options, problem):
    with pytest.raises(JobArgumentError, match=problem):
        enqueue("test.echo", **options)


def test_a_job_waits_neither_for_its_own_batch_nor_for_the_result_of_one(session):
    with batch("sending") as opened:
        with pytest.raises(JobArgumentError, match="its own batch"):
            enqueue("test.echo", after=opened.id)
        enqueue("test.echo")
    with pytest.raises(JobArgumentError, match="a batch has no result"):
        enqueue("test.echo", after=opened.id, with_result="value")


def two_batches(session: Session) -> tuple[Batch, Batch]:
    """Write two batches, each with one job, and commit."""
    with batch("first") as first:
        enqueue("test.echo")
    with batch("second") as second:
        enqueue("test.echo")
    session.commit()
    return first, second


def test_two_batches_cannot_wait_for_each_other(session):
    first, second = two_batches(session)
    first.enqueue("test.echo", after=second.id)
    with pytest.raises(JobArgumentError, match=f"a job of batch {second.id} cannot wait for what waits for this batch"):
        second.enqueue("test.echo", after=first.id)


def test_a_batch_cannot_wait_for_what_waits_for_it_through_other_jobs_and_batches(session):
    first, second = two_batches(session)
    between = enqueue("test.echo", after=enqueue("test.echo", after=first.id))
    second.enqueue_many("test.echo", [JobRequest(after=between), JobRequest(after=enqueue("test.echo"))])
    last = enqueue("test.echo", after=second.id)
    session.commit()
    for id in (between, second.id, last):
        with pytest.raises(JobArgumentError, match="cannot wait for what waits for this batch"):
            first.enqueue("test.echo", after=id)
        session.rollback()
    first.enqueue("test.echo", after=enqueue("test.echo"))  # another job, which nothing precedes


def test_a_batch_may_wait_for_what_waited_for_it_until_that_was_cancelled(session):
    first, second = two_batches(session)
    cancelled = second.enqueue("test.echo", after=first.id)
    cancel([cancelled])
    first.enqueue("test.echo", after=second.id)
    session.commit()
    with pytest.raises(JobStateError, match=f"a job of batch {second.id} would wait for what waits for this batch"):
        retry([cancelled])
    assert state_of(session, cancelled) is JobState.CANCELLED


def test_a_chain_within_a_batch_needs_no_query_for_circles(session, statements):
    with batch("chain") as opened:
        ids = [enqueue("test.echo")]
        statements.clear()
        for _ in range(3):
            ids.append(enqueue("test.echo", after=ids[-1]))
    assert not [statement for statement in statements if "RECURSIVE" in statement]
    assert count(session, JobRecord, JobRecord.batch_id == opened.id) == 4


def test_the_job_of_another_school_is_missing_as_a_predecessor(session):
    id = asked(session, "test.echo")
    session.execute(sa.update(JobRecord).where(JobRecord.id == id).values(school_id=1))
    session.commit()
    with use_scope(scope_of(2)), pytest.raises(JobArgumentError, match="there is no job or batch"):
        enqueue("test.echo", after=id)
    session.rollback()
    assert not read(session, id).has_successors


def test_the_number_of_statements_does_not_depend_on_the_number_of_successors(session, statements):
    firsts = enqueue_many("test.echo", [JobRequest() for _ in range(1_500)])
    session.commit()
    statements.clear()
    enqueue_many("test.echo", [JobRequest(after=id) for id in firsts])
    assert len(statements) <= 12  # SQLAlchemy inserts in pages of rows
    session.commit()
    statements.clear()
    cancel(firsts)
    session.commit()
    assert len(statements) <= 12
    assert count(session, JobRecord, JobRecord.error_type == PREDECESSOR_ERROR) == 1_500


@on_postgresql
@pytest.mark.parametrize("is_first", ["completion", "enqueuing"])
def test_a_successor_that_is_enqueued_while_its_predecessor_completes_is_not_left_waiting(app, session, is_first):
    id = asked(session, "test.echo")
    (held,) = claims.claim(session, [id], "w")
    session.commit()
    successors: list[str] = []

    def finish(other: Session) -> None:
        claims.complete(other, [(held, None)])

    def follow(other: Session) -> None:
        other.connection()
        with writing_to(other):
            successors.append(enqueue("test.echo", after=id))

    first, second = (finish, follow) if is_first == "completion" else (follow, finish)
    has_begun = threading.Event()

    def wait_for_first() -> None:
        with app.app_context(), BelfrySession(db=db) as other:
            other.connection()
            has_begun.set()
            second(other)
            other.commit()

    with BelfrySession(db=db) as other:
        first(other)
        thread = threading.Thread(target=wait_for_first)
        thread.start()
        assert has_begun.wait(10)
        wait_until(lambda: waits_for_lock(session))  # for the row of the predecessor
        other.commit()
    thread.join(10)
    assert state_of(session, successors[0]) is JobState.PENDING


@on_postgresql
@pytest.mark.parametrize("result", [None, '{"a": 1}'])
def test_a_successor_that_is_cancelled_as_its_predecessor_ends_is_announced_once(app, session, monkeypatch, result):
    announced: list[str] = []
    listeners = {("test.echo", JobState.CANCELLED): [lambda session, ids, state: announced.extend(ids)]}
    monkeypatch.setattr("flask_belfry.outbox.finalizing._listeners", listeners)
    first = asked(session, "test.act")
    successor = asked(session, "test.echo", after=first, with_result="value" if result else None)
    (held,) = claims.claim(session, [first], "w") if result else (None,)
    session.rollback()

    def end() -> None:
        with app.app_context():
            claims.complete(db.session(), [(held, result)]) if held else cancel([first])
            db.session.commit()
            db.session.remove()

    assert cancel([successor]) == ([successor], [])
    thread = threading.Thread(target=end)
    thread.start()
    with BelfrySession(db=db) as other:
        wait_until(lambda: waits_for_lock(other))
    session.commit()
    thread.join(10)
    assert announced == [successor]


def test_a_successor_whose_unique_key_is_held_is_the_holder(session):
    holder = asked(session, "test.echo", unique_key="k")
    first = asked(session, "test.echo")
    assert asked(session, "test.echo", after=first, unique_key="k") == holder
    complete(session, first)
    assert state_of(session, holder) is JobState.PENDING
    complete(session, holder)
    blocked = asked(session, "test.echo", after=(second := asked(session, "test.echo")), unique_key="k")
    assert asked(session, "test.echo", unique_key="k") == blocked
    assert is_blocked(session, blocked)
    complete(session, second)
    assert state_of(session, blocked) is JobState.PENDING


def test_a_successor_that_expires_while_it_waits_is_cancelled_with_what_follows_it(session, clock):
    first = asked(session, "test.echo")
    expiring = asked(session, "test.echo", after=first, expires_at=utc_now() + timedelta(minutes=1))
    last = asked(session, "test.echo", after=expiring)
    clock.shift(61)
    assert sum(cancel_expired(session)) == 1
    record = read(session, expiring)
    assert (record.error_type, record.blocked_by) == ("JobExpiredError", None)
    assert read(session, last).error_type == PREDECESSOR_ERROR
    assert retry([expiring]) == [expiring]
    session.commit()
    assert is_blocked(session, expiring)
    assert is_blocked(session, last)
    complete(session, first)
    assert [item.id for item in claims.claim(session, [expiring], "w")] == [expiring]


def test_a_successor_that_has_expired_when_it_is_released_does_not_run(session, clock):
    first = asked(session, "test.echo")
    expiring = asked(session, "test.echo", after=first, expires_at=utc_now() + timedelta(minutes=1))
    clock.shift(61)
    complete(session, first)
    assert claims.claim(session, [expiring], "w") == []
    session.commit()
    assert read(session, expiring).error_type == "JobExpiredError"


def test_a_released_successor_waits_for_a_slot_of_its_limit(session):
    first = asked(session, "test.echo")
    running = [asked(session, "test.limited", key="k") for _ in range(4)]
    held = claims.claim(session, running, "w")
    successor = asked(session, "test.limited", key="k", after=first)
    complete(session, first)
    assert claims.claim(session, [successor], "w") == []
    session.commit()
    assert read(session, successor).blocked_by is BlockedBy.LIMIT
    claims.complete(session, [(held[0], None)])
    session.commit()
    assert [item.id for item in claims.claim(session, [successor], "w")] == [successor]
