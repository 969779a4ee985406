"""Batches: written with their jobs, finished once by the commit that ends the last one, cancelled, retried, pruned."""

from __future__ import annotations

import os
import signal
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.changes import Actor, Subject, for_school, use_actor
from flask_belfry.changes.sessions import writing_to
from flask_belfry.core.errors import NotFoundError
from flask_belfry.db import BelfrySession, db
from flask_belfry.db.columns import new_id
from flask_belfry.db.tenancy import scope_of, use_scope
from flask_belfry.execution import Limit, current_job, job
from flask_belfry.execution import claim as claims
from flask_belfry.outbox import (
    Batch,
    BatchStateError,
    JobArgumentError,
    JobBatch,
    JobRecord,
    JobRequest,
    JobState,
    UnknownJobError,
    batch,
    cancel,
    cancel_batch,
    control,
    enqueue,
    enqueue_many,
    get_batch,
    on_batches_reopened,
    prune_records,
    retry,
    retry_batch,
    sweep_batches,
)
from flask_belfry.outbox import batches as batches_module
from flask_belfry.outbox.registry import forget
from tests.domain import Ticket, behaviour, echo, finish
from tests.job_records import count, read, state_of, waits_for_lock, working_with_sweeps
from tests.processes import children_of
from tests.servers import wait_until

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def read_batch(session: Session, id: str) -> JobBatch:
    """Return a batch as it is now, detached from the session."""
    session.rollback()
    record = session.get_one(JobBatch, id, populate_existing=True)
    session.expunge(record)
    session.rollback()
    return record


def then_jobs(session: Session) -> list[JobRecord]:
    """Return the jobs that batches have enqueued, oldest first."""
    session.rollback()
    found = list(session.scalars(sa.select(JobRecord).where(JobRecord.name == "test.finish").order_by(JobRecord.id)))
    session.expunge_all()
    session.rollback()
    return found


def counts(record: JobBatch) -> tuple[int | None, int | None, int | None]:
    """Return the counts of a batch: completed, failed, cancelled."""
    return record.completed, record.failed, record.cancelled


def open_of(session: Session, number: int = 2, name: str = "test.echo") -> tuple[Batch, list[str]]:
    """Write and commit a batch of jobs."""
    with batch("test", then="test.finish") as opened:
        ids = enqueue_many(name, [JobRequest() for _ in range(number)])
    session.commit()
    return opened, ids


def complete(session: Session, *ids: str) -> None:
    """Claim and complete jobs, and commit."""
    held = claims.claim(session, ids, "a worker")
    assert claims.complete(session, [(item, None) for item in held]) == set(ids)
    session.commit()


@pytest.fixture
def work(work: Callable[[], None], session: Session) -> Callable[[], None]:
    return working_with_sweeps(work, session)


def test_the_commit_that_ends_the_last_job_finishes_the_batch_and_enqueues_then(session, work):
    subject = Subject("ticket", 7)
    with use_actor(Actor(user_id=3, request_id="r-1", school_id=None)):
        with batch("sending", then=finish, then_args={"note": "all"}, subject=subject) as opened:
            good = enqueue_many("test.echo", [JobRequest({"value": number}) for number in range(3)])
            bad = enqueue("test.fail")
            other = echo.enqueue(value=1)
        outside = enqueue("test.echo")
    session.commit()
    assert [read(session, id).batch_id for id in (*good, bad, other)] == [opened.id] * 5
    assert read(session, outside).batch_id is None
    assert read_batch(session, opened.id).finished_at is None
    work()
    record = read_batch(session, opened.id)
    assert counts(record) == (4, 1, 0)
    (then,) = then_jobs(session)
    assert then.id == record.then_job_id
    assert (then.state, then.batch_id) == (JobState.COMPLETED, None)
    assert then.result == {"batch_id": opened.id, "counts": [4, 1, 0], "note": "all"}
    assert (then.user_id, then.request_id, then.subject_type, then.subject_id) == (3, "r-1", "ticket", "7")
    assert record.finished_at <= then.created_at + timedelta(seconds=1)


def test_a_rollback_leaves_neither_the_batch_nor_its_jobs(session):
    with batch("test", then="test.finish"):
        enqueue("test.echo")
    session.rollback()
    savepoint = session.begin_nested()
    with batch("test"):
        enqueue("test.echo")
    savepoint.rollback()
    enqueue("test.echo")
    session.commit()
    assert (count(session, JobBatch), count(session, JobRecord)) == (0, 1)
    assert count(session, JobRecord, JobRecord.batch_id.is_not(None)) == 0


def test_the_jobs_of_hooks_join_for_rows_that_are_flushed_in_the_block(session):
    session.add(Ticket(title="before"))
    with batch("test") as opened:
        session.add(Ticket(title="within"))
    session.add(Ticket(title="after"))
    session.commit()
    assert count(session, JobRecord) == 3
    assert count(session, JobRecord, JobRecord.batch_id == opened.id) == 1


@on_postgresql
def test_the_jobs_of_another_session_do_not_join(session, app):
    with batch("test") as opened, BelfrySession(db=db) as other:
        (id,) = enqueue_many("test.echo", [JobRequest()], session=other)
        other.commit()
    session.commit()
    assert read(session, id).batch_id is None
    assert read_batch(session, opened.id).finished_at is not None


def test_a_batch_is_not_finished_within_its_block(session):
    with batch("test", then="test.finish") as opened:
        cancel([enqueue("test.echo")])
        id = enqueue("test.echo")
    session.commit()
    assert read_batch(session, opened.id).finished_at is None
    complete(session, id)
    assert counts(read_batch(session, opened.id)) == (1, 0, 1)
    assert len(then_jobs(session)) == 1


def test_an_empty_batch_is_finished_at_the_end_of_its_block(session):
    with batch("test", then="test.finish") as opened:
        pass
    session.commit()
    assert counts(read_batch(session, opened.id)) == (0, 0, 0)
    assert len(then_jobs(session)) == 1


def test_what_is_wrong_with_a_batch_is_refused_where_it_is_written(session):
    with pytest.raises(UnknownJobError), batch("test", then="test.unknown"):
        pass
    with pytest.raises(JobArgumentError, match="ticket_id: is required"), batch("test", then="test.greet"):
        pass
    for args, problem in (
        ({"speed": 1}, "speed: is not an argument"),
        ({"failed": 1}, r"failed is given to test\.finish by the batch"),
    ):
        with pytest.raises(JobArgumentError, match=problem), batch("test", then="test.finish", then_args=args):
            pass
    with pytest.raises(JobArgumentError, match="then_args must come with then"), batch("test", then_args={"note": ""}):
        pass
    with pytest.raises(JobArgumentError, match="the name of a batch"), batch(""):
        pass
    with batch("test"), pytest.raises(BatchStateError, match="nested"), batch("another"):
        pass
    session.commit()
    assert count(session, JobBatch) == 1


def test_then_gets_only_what_its_function_has_as_parameters(session):
    with batch("test", then="test.greet", then_args={"ticket_id": 5}):
        pass
    session.commit()
    assert session.scalars(sa.select(JobRecord.args)).all() == [{"ticket_id": 5}]


def test_a_batch_ends_also_when_a_deploy_has_removed_then(session, monkeypatch, work):
    opened, (first, second) = open_of(session)
    with monkeypatch.context() as patch:
        patch.setattr(batches_module, "definition", lambda name: forget("test.unknown") or _raise_unknown(name))
        complete(session, first, second)
    (then,) = then_jobs(session)
    assert (then.state, then.error_type) == (JobState.FAILED, "UnknownJobError")
    assert retry([then.id]) == [then.id]
    session.commit()
    work()
    assert read(session, then.id).result["counts"] == [2, 0, 0]
    assert read_batch(session, opened.id).finished_at is not None


def _raise_unknown(name: str) -> None:
    raise UnknownJobError(name)


def test_then_fits_also_with_the_longest_values_that_it_gets(session):
    def opened(characters: int) -> AbstractContextManager[Batch]:
        return batch("test", then="test.finish", then_args={"note": "x" * characters})

    with pytest.raises(JobArgumentError, match="args: more than 2000 bytes"), opened(1_900):
        pass
    session.rollback()
    with opened(1_850):
        pass
    session.commit()
    assert [then.state for then in then_jobs(session)] == [JobState.PENDING]


def test_a_batch_ends_also_when_the_function_of_a_limit_key_raises(session):
    @job("test.limited_finish", limit=Limit(key=lambda args: args["key"]["name"], running=1))
    def limited_finish(session: Session, key: str) -> None:
        """Does nothing."""

    try:
        with batch("test", then=limited_finish, then_args={"key": "k"}) as opened:
            id = enqueue("test.echo")
        session.commit()
        complete(session, id)
    finally:
        forget(limited_finish.name)
    record = read_batch(session, opened.id)
    then = read(session, record.then_job_id)
    assert (then.name, then.state, then.error_type) == ("test.limited_finish", JobState.FAILED, "TypeError")


def test_an_argument_may_have_the_name_of_a_parameter_of_the_batch(session):
    @job("test.with_job")
    def with_job(session: Session, job: int) -> None:
        """Does nothing."""

    try:
        with batch("test") as opened:
            id = opened.enqueue("test.with_job", job=7)
        session.commit()
    finally:
        forget(with_job.name)
    assert read(session, id).args == {"job": 7}


def test_jobs_are_added_by_id_until_the_batch_is_finished(session, work):
    opened, ids = open_of(session)
    added = get_batch(opened.id).enqueue("test.echo", value=1)
    many = opened.enqueue_many(echo, [JobRequest({"value": number}) for number in range(3)])
    session.commit()
    assert count(session, JobRecord, JobRecord.batch_id == opened.id) == len([*ids, added, *many])
    work()
    assert counts(read_batch(session, opened.id)) == (6, 0, 0)
    with pytest.raises(BatchStateError, match="is finished"):
        get_batch(opened.id).enqueue("test.echo")
    session.rollback()
    with pytest.raises(BatchStateError, match="is finished"):
        opened.enqueue("test.echo")
    session.rollback()
    with pytest.raises(NotFoundError):
        get_batch(new_id())
    assert len(then_jobs(session)) == 1


def test_a_job_of_the_batch_adds_siblings(session, work):
    def spread(session: Session, depth: int) -> int:
        for _ in range(2 if depth else 0):
            current_job().batch.enqueue("test.act", ticket_id=depth - 1)
        return depth

    behaviour["act"] = spread
    with batch("test", then="test.finish") as opened:
        enqueue("test.act", ticket_id=3)
    session.commit()
    work()
    assert counts(read_batch(session, opened.id)) == (15, 0, 0)
    assert len(then_jobs(session)) == 1


def test_the_jobs_of_schools_add_to_a_batch_of_the_system(session, work):
    behaviour["act"] = lambda session, ticket_id: current_job().batch.enqueue("test.echo")
    with batch("test", then="test.finish") as opened:
        for school_id in (1, 2):
            with for_school(school_id):
                enqueue("test.act", ticket_id=school_id)
    session.commit()
    work()
    assert counts(read_batch(session, opened.id)) == (4, 0, 0)
    assert [then.school_id for then in then_jobs(session)] == [None]


def test_the_retry_of_a_schools_job_opens_a_batch_of_the_system_again(session):
    with batch("test", then="test.finish") as opened, for_school(1):
        failed = enqueue("test.echo")
    successor = enqueue("test.echo", after=opened.id)
    cancel([failed])
    session.commit()
    assert state_of(session, successor) is JobState.CANCELLED
    with use_scope(scope_of(1)):
        assert retry([failed]) == [failed]
        session.commit()
    assert read_batch(session, opened.id).finished_at is None
    assert state_of(session, successor) is JobState.BLOCKED
    complete(session, failed)
    assert counts(read_batch(session, opened.id)) == (1, 0, 0)
    assert state_of(session, successor) is JobState.PENDING
    assert [then.state for then in then_jobs(session)] == [JobState.CANCELLED, JobState.PENDING]


def test_a_batch_of_a_school_is_cancelled_and_retried_with_its_jobs_of_other_schools(session):
    with for_school(1), batch("test") as opened:
        ids = [enqueue("test.echo")]
        with for_school(2):
            ids.append(enqueue("test.echo"))
    session.commit()
    with use_scope(scope_of(1)):
        assert set(cancel_batch(opened.id)[0]) == {*ids}
        session.commit()
        assert set(retry_batch(opened.id, cancelled=True)) == {*ids}
        session.commit()
    with use_scope(scope_of(2)), pytest.raises(NotFoundError):
        cancel_batch(opened.id)


@on_postgresql
def test_an_addition_that_is_not_committed_yet_keeps_the_batch_open(session, app):
    opened, ids = open_of(session)
    with BelfrySession(db=db) as adding:
        adding.connection()
        with writing_to(adding):
            added = opened.enqueue("test.echo")
        complete(session, *ids)
        assert read_batch(session, opened.id).finished_at is None
        assert sweep_batches(session) == 1  # it sees no live job, and skips the locked batch
        assert read_batch(session, opened.id).finished_at is None
        adding.commit()
    assert sweep_batches(session) == 0
    complete(session, added)
    assert counts(read_batch(session, opened.id)) == (3, 0, 0)


@on_postgresql
def test_an_addition_after_one_that_was_rolled_back_keeps_the_batch_open(session, app):
    opened, ids = open_of(session)
    with BelfrySession(db=db) as adding:
        adding.connection()
        with writing_to(adding):
            savepoint = adding.begin_nested()
            opened.enqueue("test.echo")
            savepoint.rollback()  # and with it the lock
            added = opened.enqueue("test.echo")
        complete(session, *ids)
        adding.commit()
    assert read_batch(session, opened.id).finished_at is None
    complete(session, added)
    assert counts(read_batch(session, opened.id)) == (3, 0, 0)


def test_an_addition_that_commits_between_the_question_and_the_lock_keeps_the_batch_open(session, monkeypatch):
    opened, ids = open_of(session)
    claim_of = claims.claim(session, ids, "a worker")
    lock, added = batches_module._LOCK_ENDED, []

    class LockAfterAddition:
        """The statement that finds no live job, and right after it the commit of an addition."""

        def _execute_on_connection(self, connection, parameters, options):
            rows = lock._execute_on_connection(connection, parameters, options).scalars().all()
            added.append(opened.enqueue("test.echo"))  # in this transaction: SQLite has one writer
            return sa.Result if rows is None else _Scalars(rows)

    monkeypatch.setattr(batches_module, "_LOCK_ENDED", LockAfterAddition())
    claims.complete(session, [(item, None) for item in claim_of])
    session.commit()
    assert len(added) == 1
    assert read_batch(session, opened.id).finished_at is None


class _Scalars:
    def __init__(self, rows):
        self._rows = rows

    def scalars(self):
        return self._rows


@on_postgresql
def test_two_last_jobs_that_cannot_see_each_other_are_followed_by_then_once(session, app):
    opened, ids = open_of(session)
    held = claims.claim(session, ids, "a worker")
    barrier = threading.Barrier(2)

    def end(item: claims.Claim) -> None:
        with app.app_context(), BelfrySession(db=db) as other:
            claims.complete(other, [(item, None)])
            barrier.wait(10)  # neither has committed
            other.commit()

    threads = [threading.Thread(target=end, args=(item,)) for item in held]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert read_batch(session, opened.id).finished_at is None
    with BelfrySession(db=db) as first, BelfrySession(db=db) as second:
        assert (sweep_batches(first), sweep_batches(second)) == (1, 0)
    assert counts(read_batch(session, opened.id)) == (2, 0, 0)
    assert len(then_jobs(session)) == 1


def test_the_scheduler_sweeps_the_batches(app, session, processes):
    with batch("test", then="test.finish") as opened:
        id = enqueue("test.echo")
    session.execute(sa.update(JobRecord).where(JobRecord.id == id).values(state=JobState.COMPLETED))
    session.commit()
    processes.scheduler()
    wait_until(lambda: read_batch(session, opened.id).finished_at is not None, seconds=30)
    assert len(then_jobs(session)) == 1


def test_several_batches_that_end_in_one_commit_are_finished_together(session, statements):
    opened = [open_of(session, 2) for _ in range(5)]
    ids = [id for _, of_batch in opened for id in of_batch]
    held = claims.claim(session, ids, "a worker")
    statements.clear()
    claims.complete(session, [(item, None) for item in held])
    session.commit()
    assert sum("FROM job_batches" in statement for statement in statements) == 1
    assert sum(statement.startswith("UPDATE job_batches SET finished_at") for statement in statements) == 1
    assert {counts(read_batch(session, each.id)) for each, _ in opened} == {(2, 0, 0)}
    assert len(then_jobs(session)) == 5


def test_a_job_of_no_batch_costs_no_statement(session, statements):
    id = enqueue("test.echo")
    session.commit()
    assert len(statements) == 1
    held = claims.claim(session, [id], "a worker")
    statements.clear()
    claims.complete(session, [(item, None) for item in held])
    session.commit()
    assert len(statements) == 1


def test_a_cancelled_batch_runs_nothing_more_and_then_gets_its_counts(session):
    opened, ids = open_of(session, 5)
    complete(session, ids[0])
    (running,) = claims.claim(session, ids[1:2], "a worker")
    session.commit()
    cancelled, stopping = cancel_batch(opened.id)
    session.commit()
    assert (set(cancelled), stopping) == (set(ids[2:]), [ids[1]])
    record = read_batch(session, opened.id)
    assert record.cancelled_at is not None
    assert record.finished_at is None
    with pytest.raises(BatchStateError, match="is cancelled"):
        get_batch(opened.id).enqueue("test.echo")
    session.rollback()
    assert cancel_batch(opened.id) == ([], [ids[1]])
    claims.complete(session, [(running, None)])
    session.commit()
    assert counts(read_batch(session, opened.id)) == (2, 0, 3)
    (then,) = then_jobs(session)
    assert (then.args["completed"], then.args["cancelled"]) == (2, 3)
    with pytest.raises(BatchStateError, match="is finished"):
        cancel_batch(opened.id)


def test_a_batch_whose_jobs_all_wait_is_finished_by_its_cancellation(session):
    opened, _ = open_of(session, 12_000)
    cancelled, _ = cancel_batch(opened.id)
    session.commit()
    assert len(cancelled) == 12_000
    assert counts(read_batch(session, opened.id)) == (0, 0, 12_000)
    assert len(then_jobs(session)) == 1


def test_the_retry_of_failed_jobs_opens_the_batch_again_and_then_follows_each_finish(session, work):
    with batch("test", then="test.finish") as opened:
        bad = [enqueue("test.act", ticket_id=1), enqueue("test.fail")]
        waiting = enqueue("test.echo")
    behaviour["act"] = lambda session, ticket_id: None
    cancel([waiting])
    session.commit()
    work()
    assert counts(read_batch(session, opened.id)) == (1, 1, 1)
    assert retry_batch(opened.id) == [bad[1]]
    session.commit()
    record = read_batch(session, opened.id)
    assert (record.finished_at, record.then_job_id, *counts(record)) == (None,) * 5
    work()
    assert counts(read_batch(session, opened.id)) == (1, 1, 1)
    assert [then.state for then in then_jobs(session)] == [JobState.COMPLETED] * 2
    assert set(retry_batch(opened.id, cancelled=True)) == {bad[1], waiting}
    session.commit()
    work()
    assert counts(read_batch(session, opened.id)) == (2, 1, 0)


def test_the_transaction_that_opens_finished_batches_again_calls_what_follows_that(session, monkeypatch):
    monkeypatch.setattr(control, "_listeners", defaultdict(list))
    calls = []
    on_batches_reopened("of a listener")(lambda session, ids: calls.append(sorted(ids)))
    batches = []
    for name in ("of a listener", "of a listener", "another"):
        with batch(name) as opened:
            batches.append((opened.id, enqueue("test.echo"), enqueue("test.echo")))
    cancel([first for _, first, _ in batches])
    session.commit()
    retry([first for _, first, _ in batches])  # the batches are open
    assert calls == []
    cancel([id for _, *ids in batches for id in ids])
    session.commit()
    retry([id for _, *ids in batches for id in ids])
    assert calls == [sorted(id for id, *_ in batches[:2])]
    session.rollback()


def test_a_then_that_still_waits_is_cancelled_when_the_batch_opens_again(session):
    opened, (first, second) = open_of(session)
    cancel([first])
    complete(session, second)
    session.commit()
    assert retry([first]) == [first]  # as by hand: a single job
    session.commit()
    assert [then.state for then in then_jobs(session)] == [JobState.CANCELLED]
    assert read_batch(session, opened.id).finished_at is None
    complete(session, first)
    assert [then.state for then in then_jobs(session)] == [JobState.CANCELLED, JobState.PENDING]
    assert counts(read_batch(session, opened.id)) == (2, 0, 0)


def test_a_then_that_runs_continues_when_the_batch_opens_again(session):
    opened, (first, second) = open_of(session)
    cancel([first])
    complete(session, second)
    then = read_batch(session, opened.id).then_job_id
    assert len(claims.claim(session, [then], "a worker")) == 1
    assert retry_batch(opened.id, cancelled=True) == [first]
    session.commit()
    record = read(session, then)
    assert (record.state, record.cancel_requested) == (JobState.RUNNING, False)


@on_postgresql
def test_a_retry_waits_for_a_finish_that_is_not_committed_yet_and_cancels_its_then(session, app):
    opened, (first, second) = open_of(session)
    cancel([first])
    session.commit()
    held = claims.claim(session, [second], "a worker")

    def retry_first() -> None:
        with app.app_context():
            retry([first])
            db.session.commit()
            db.session.remove()

    claims.complete(session, [(item, None) for item in held])
    thread = threading.Thread(target=retry_first)
    thread.start()
    with BelfrySession(db=db) as other:
        wait_until(lambda: waits_for_lock(other))
    session.commit()
    thread.join(10)
    assert [then.state for then in then_jobs(session)] == [JobState.CANCELLED]
    assert read_batch(session, opened.id).finished_at is None


def test_a_batch_stays_finished_when_none_of_its_jobs_can_be_retried(session):
    first = enqueue("test.echo")
    with batch("test", then="test.finish") as opened:
        middle = enqueue("test.echo", after=first)
        last = enqueue("test.echo", after=middle)
    cancel([first])
    session.commit()
    assert counts(read_batch(session, opened.id)) == (0, 0, 2)
    assert retry_batch(opened.id, cancelled=True) == []
    session.commit()
    assert [then.state for then in then_jobs(session)] == [JobState.PENDING]
    # With its predecessor, a job can.
    assert set(retry([first, middle])) == {first, middle}
    session.commit()
    assert read_batch(session, opened.id).finished_at is None
    complete(session, first)
    complete(session, middle)
    complete(session, last)
    assert counts(read_batch(session, opened.id)) == (2, 0, 0)


@on_postgresql
def test_a_retry_that_is_not_committed_yet_keeps_the_batch_open(session, app):
    opened, (first, second) = open_of(session)
    cancel([first])
    session.commit()
    held = claims.claim(session, [second], "a worker")
    assert retry([first]) == [first]
    with BelfrySession(db=db) as other:
        claims.complete(other, [(item, None) for item in held])
        other.commit()
    session.commit()
    assert read_batch(session, opened.id).finished_at is None
    complete(session, first)
    assert len(then_jobs(session)) == 1


def test_finished_batches_are_deleted_once_their_jobs_are_and_open_ones_keep_theirs(session, clock):
    finished, ids = open_of(session)
    complete(session, *ids)
    opened, (ended, _) = open_of(session)
    complete(session, ended)
    clock.shift(timedelta(days=40))
    keep = {"older_than": timedelta(days=30), "failed_older_than": timedelta(days=30)}
    assert prune_records(session, **keep) == 2
    session.commit()
    assert state_of(session, ended) is JobState.COMPLETED
    assert session.scalars(sa.select(JobBatch.id)).all() == [opened.id]
    assert count(session, JobRecord, JobRecord.batch_id == finished.id) == 0


def test_the_completed_jobs_of_a_batch_are_kept_as_long_as_its_failed_ones(session, work, clock):
    with batch("test", then="test.finish") as opened:
        enqueue("test.echo")
        failed = enqueue("test.fail")
    session.commit()
    work()
    keep = {"older_than": timedelta(days=30), "failed_older_than": timedelta(days=90)}
    clock.shift(timedelta(days=40))
    prune_records(session, **keep)
    assert retry_batch(opened.id) == [failed]
    session.commit()
    work()
    assert counts(read_batch(session, opened.id)) == (1, 1, 0)
    clock.shift(timedelta(days=100))
    prune_records(session, **keep)
    session.commit()
    assert (count(session, JobRecord), count(session, JobBatch)) == (0, 0)


@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
def test_then_follows_once_when_the_worker_that_ends_the_last_job_is_killed(app, session, processes, tmp_path, moment):
    soon = {"HEARTBEAT_SECONDS": "0.5", "RESCUE_AFTER_SECONDS": "2", "RELAY_SECONDS": "0.5", "MAX_INTERRUPTIONS": "9"}
    opened, _ = open_of(session, 1, "test.touch")
    once = tmp_path / "killed"
    program = f"""
import os, signal
import cli, tests.domain
from pathlib import Path
from sqlalchemy import event
from flask_belfry.db import BelfrySession
from flask_belfry.outbox import batches
ended = set()
finish = batches._FINISH
def see(session):
    if session.info.get("outbox") and not Path({str(once)!r}).exists() and ended:
        Path({str(once)!r}).touch()
        os.kill(os.getpid(), signal.SIGKILL)
enqueue_then = batches._enqueue_then
def note(*args):
    ended.add(1)
    return enqueue_then(*args)
batches._enqueue_then = note
event.listen(BelfrySession, {moment!r}, see)
cli.main(cli.create())
"""
    processes.start("python", "-c", program, "jobs", "worker", **soon)
    processes.scheduler(**soon)
    wait_until(once.exists, seconds=30)
    wait_until(lambda: [then.state for then in then_jobs(session)] == [JobState.COMPLETED], seconds=60)
    assert counts(read_batch(session, opened.id)) == (1, 0, 0)
    assert count(session, Ticket) == 1


def test_a_batch_of_2000_whose_workers_are_killed_ten_times_is_followed_by_then_once(app, session, processes):
    soon = {"HEARTBEAT_SECONDS": "0.5", "RESCUE_AFTER_SECONDS": "2", "RELAY_SECONDS": "0.5", "MAX_INTERRUPTIONS": "99"}
    with batch("test", then="test.finish") as opened:
        enqueue_many("test.mark", [JobRequest({"number": number}) for number in range(2_000)])
    session.commit()
    processes.scheduler(**soon)
    pool = processes.worker("--processes", "2", **soon)
    ended = JobRecord.batch_id == opened.id, JobRecord.finished_at.is_not(None)
    killed: set[int] = set()
    while len(killed) < 10:
        before = count(session, JobRecord, *ended)
        wait_until(lambda before=before: count(session, JobRecord, *ended) > before, seconds=60)
        if before > 1_900:
            break
        wait_until(lambda: set(children_of(pool.pid)) - killed, seconds=30)
        pid = (set(children_of(pool.pid)) - killed).pop()
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    assert len(killed) == 10
    wait_until(lambda: [then.state for then in then_jobs(session)] == [JobState.COMPLETED], seconds=120)
    assert counts(read_batch(session, opened.id)) == (1_800, 200, 0)
    assert count(session, Ticket) == 1_800
    assert then_jobs(session)[0].result["counts"] == [1_800, 200, 0]


@on_postgresql
def test_a_batch_whose_database_crashes_twice_is_followed_by_then_once(app, session, processes, postgres):
    soon = {"HEARTBEAT_SECONDS": "0.5", "RESCUE_AFTER_SECONDS": "2", "RELAY_SECONDS": "0.5", "MAX_INTERRUPTIONS": "9"}
    with batch("test", then="test.finish") as opened:
        enqueue_many("test.mark", [JobRequest({"number": number}) for number in range(500)])
    session.commit()
    processes.scheduler(**soon)
    for _ in range(2):
        processes.worker(**soon)
    has_ended = JobRecord.batch_id == opened.id, JobRecord.finished_at.is_not(None)
    for least in (50, 250):
        wait_until(lambda least=least: count(session, JobRecord, *has_ended) >= least, seconds=60)
        postgres.stop("immediate")
        postgres.start()
        db.engine.dispose()
    wait_until(lambda: [then.state for then in then_jobs(session)] == [JobState.COMPLETED], seconds=120)
    assert counts(read_batch(session, opened.id)) == (450, 50, 0)
    assert count(session, Ticket) == 450
    assert then_jobs(session)[0].result["counts"] == [450, 50, 0]
