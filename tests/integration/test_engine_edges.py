"""The engine in rare cases: repeated interruptions, changes that a chunk leaves in the session, late timeouts."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time

import pytest
import sqlalchemy as sa
from rq.serializers import JSONSerializer
from sqlalchemy.exc import OperationalError

from flask_belfry.db import db
from flask_belfry.execution import NO_RETRY, RetryPolicy, attempts, claim, executor, heartbeat, time_limits
from flask_belfry.execution.time_limits import TimeLimits, no_limit
from flask_belfry.outbox import (
    JobArgumentError,
    JobAttempt,
    JobRecord,
    JobState,
    JobTimeoutError,
    WorkerProcess,
    cancel,
    enqueue,
    finalizing,
)
from flask_belfry.outbox.models import AttemptOutcome
from flask_belfry.workers.forking import ForkingWorker
from flask_belfry.workers.threaded import ThreadedWorker
from tests.domain import Ticket, behaviour


def interrupted(session, id: str, times: int) -> JobState | None:
    state = None
    for _ in range(times):
        (item,) = claim.claim(session, [id], "w")
        state = attempts.interrupt(session, item, "SIGKILL")
        session.commit()
    return state


def test_an_attempt_that_ends_by_itself_breaks_the_row_of_interruptions(app, session):
    id = enqueue("test.act")
    session.commit()
    assert interrupted(session, id, 2) is JobState.PENDING
    (item,) = claim.claim(session, [id], "w")
    attempts.fail(session, item, RuntimeError("no luck"), RetryPolicy(delays_seconds=(0,)))
    session.commit()
    time.sleep(0.01)
    assert interrupted(session, id, 1) is JobState.PENDING


def test_a_completed_job_has_no_interruptions_in_a_row(app, session):
    behaviour["act"] = lambda session, ticket_id: None
    id = enqueue("test.act")
    session.commit()
    interrupted(session, id, 2)
    executor.run(app, claim.claim(session, [id], "w"), no_limit)
    session.expire_all()
    assert session.get_one(JobRecord, id).interruptions == 0


def test_what_a_chunk_function_leaves_in_the_session_does_not_commit_with_its_answers(app, session, monkeypatch):
    monkeypatch.setattr("flask_belfry.execution.chunk.COMMIT_SECONDS", 0)

    def chunk(chunk) -> None:
        for item in chunk:
            chunk.session.add(Ticket(title="outside of any fence"))
            chunk.session.flush()
            chunk.answer(item)

    behaviour["chunk"] = chunk
    id = enqueue("test.act_in_chunks", ticket_id=1)
    session.commit()
    executor.run(app, claim.claim(session, [id], "w"), no_limit)
    session.expire_all()
    assert session.get_one(JobRecord, id).state is JobState.COMPLETED
    assert session.scalars(sa.select(Ticket)).all() == []


def test_a_timeout_on_its_way_arrives_in_its_own_job_and_is_sent_once(monkeypatch):
    calls, ends = [], []
    real = time_limits._raise_in_thread

    def late(thread_id: int, error: type[BaseException]) -> None:
        calls.append(thread_id)
        threading.Timer(0.05, real, (thread_id, error)).start()

    monkeypatch.setattr(time_limits, "_raise_in_thread", late)
    limits = TimeLimits()

    def job() -> None:
        try:
            try:
                with limits.limit(0):
                    limits.check()
                    limits.check()
                ends.append("left")
            except JobTimeoutError as error:
                ends.append(str(error))
            for _ in range(20):
                time.sleep(0.01)
        except JobTimeoutError:
            ends.append("hit the next one")

    thread = threading.Thread(target=job)
    thread.start()
    thread.join(5)
    assert (ends, len(calls)) == (["took longer than its 0 s"], 1)


def test_lists_of_arguments_hold_scalars_only(app):
    with pytest.raises(JobArgumentError, match="must be an id, a scalar"):
        enqueue("test.greet", ticket_id=[{"name": "Ada"}])


def test_workers_read_json_only(app, broker):
    assert ThreadedWorker(["default"], connection=broker).serializer is JSONSerializer


class RudeError(Exception):
    """An error that cannot be formatted."""

    def __str__(self) -> str:
        raise Panic("no words")


class Panic(BaseException):
    """Like pyo3's, which is not an Exception."""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (SystemExit(3), "3"),
        (KeyboardInterrupt(), ""),
        (ValueError("a\0b"), "a\N{REPLACEMENT CHARACTER}b"),
        (ValueError("lone \ud800"), "lone \N{REPLACEMENT CHARACTER}"),
        (RudeError(), "<RudeError cannot be shown>"),
        (type("E" * 200, (Exception,), {})("long name"), "long name"),
        (Panic("index out of bounds"), "index out of bounds"),
        (GeneratorExit(), ""),
        (BaseExceptionGroup("two", [KeyboardInterrupt()]), "two (1 sub-exception)"),
    ],
    ids=["SystemExit", "KeyboardInterrupt", "NUL", "surrogate", "rude", "long name", "panic", "generator", "group"],
)
@pytest.mark.parametrize("name", ["test.act", "test.act_in_chunks"])
def test_whatever_a_job_raises_its_end_is_written(app, session, name, error, says):
    def act(*_: object) -> None:
        raise error

    behaviour["act"] = behaviour["chunk"] = act
    id = enqueue(name, ticket_id=1)
    session.commit()
    (item,) = claim.claim(session, [id], "w")
    executor.run(app, [item], no_limit)
    record = session.get_one(JobRecord, id, populate_existing=True)
    assert record.state in (JobState.RETRYABLE, JobState.FAILED)
    assert (record.error_type, record.error_message) == (type(error).__name__[:120], says)
    attempt = session.scalars(sa.select(JobAttempt).where(JobAttempt.job_id == id)).one()
    assert "raise error" in attempt.traceback


class Secret(str):
    """A string that cannot be formatted."""

    def __repr__(self) -> str:
        return "'…'"


class Shy(dict):
    """A result that cannot be formatted."""

    def __repr__(self) -> str:
        raise Panic("no words")


@pytest.mark.parametrize("name", ["test.act", "test.act_in_chunks"])
def test_results_that_look_alike_are_kept_each_with_its_job(app, session, work, name):
    def chunk(chunk) -> None:
        for item in chunk:
            chunk.answer(item, result_of(chunk.session, item.args["ticket_id"]))

    def result_of(session, ticket_id: int) -> object:
        return Secret(f"token of {ticket_id}") if ticket_id % 2 else Shy(n=ticket_id)

    behaviour["act"], behaviour["chunk"] = result_of, chunk
    ids = [enqueue(name, ticket_id=n) for n in range(20)]
    session.commit()
    work()
    results = [session.get_one(JobRecord, id, populate_existing=True).result for id in ids]
    assert results == [f"token of {n}" if n % 2 else {"n": n} for n in range(20)]


def test_ends_that_cannot_be_written_are_told_apart_from_their_neighbours(app, session, monkeypatch):
    """When a batch of completions raises any exception, the job that caused it fails and the others complete."""
    complete = claim.complete

    def stumble(session, results) -> set[str]:
        if bad in {item.id for item, _ in results}:
            raise Panic("no room")
        return complete(session, results)

    monkeypatch.setattr(claim, "complete", stumble)
    ids = [enqueue("test.act", ticket_id=n) for n in range(7)]
    session.commit()
    bad = ids[3]
    ends = executor.complete(app, [(item, "1") for item in claim.claim(session, ids, "w")])
    assert dict(ends) == {id: JobState.RETRYABLE if id == bad else JobState.COMPLETED for id in ids}
    assert session.get_one(JobRecord, bad, populate_existing=True).error_type == "Panic"


def test_a_record_whose_chunk_cannot_save_fails_and_no_other(app, session):
    saved = []

    def save(session, answers) -> None:
        if any(answer.result == 3 for answer in answers):
            raise Panic("no room")
        saved.extend(answer.result for answer in answers)

    def chunk(chunk) -> None:
        chunk.before_commit(save)
        for item in chunk:
            chunk.answer(item, item.args["ticket_id"])

    behaviour["chunk"] = chunk
    ids = [enqueue("test.act_in_chunks", ticket_id=n) for n in range(7)]
    session.commit()
    ends = executor.run(app, claim.claim(session, ids, "w"), no_limit)
    bad = ids.pop(3)
    assert dict(ends) == dict.fromkeys(ids, JobState.COMPLETED) | {bad: JobState.RETRYABLE}
    assert saved == [0, 1, 2, 4, 5, 6]
    assert session.get_one(JobRecord, bad, populate_existing=True).error_type == "Panic"


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED])
def test_who_waits_for_the_end_of_jobs_hears_of_it_in_its_transaction(app, session, monkeypatch, state):
    heard = []

    def hear(session, ids, final) -> None:
        found = session.connection().execute(sa.select(JobRecord.state).where(JobRecord.id.in_(ids)))
        heard.append((ids, final, set(found.scalars())))

    monkeypatch.setitem(finalizing._listeners, ("test.act", state), [hear])
    ids = [enqueue("test.act", ticket_id=n) for n in range(2)]
    others = [enqueue("test.greet", ticket_id=1)]
    session.commit()
    if state is JobState.CANCELLED:
        cancel(ids + others)
    else:
        items = claim.claim(session, ids + others, "w")
        if state is JobState.COMPLETED:
            claim.complete(session, [(item, None) for item in items])
        else:
            for item in items:
                attempts.fail(session, item, RuntimeError(), NO_RETRY)
    calls = [ids] if state is not JobState.FAILED else [[id] for id in ids]
    assert heard == [(of_call, state, {state}) for of_call in calls]


def database_locked() -> OperationalError:
    cause = sqlite3.OperationalError("database is locked")
    cause.sqlite_errorcode = sqlite3.SQLITE_BUSY
    error = OperationalError("UPDATE", {}, cause)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("name", ["test.act", "test.act_in_chunks"])
def test_a_job_that_is_in_its_own_way_is_no_endless_outage(app, session, clock, name):
    """A job is retried after lock conflicts, but not indefinitely: it may be their cause."""

    def act(*_: object, **__: object) -> None:
        raise database_locked()

    behaviour["act"] = behaviour["chunk"] = act
    id = enqueue(name, ticket_id=1)
    session.commit()
    states = []
    for _ in range(len(executor.OUTAGE_DELAYS_SECONDS) + 3):
        states += [state for _, state in executor.run(app, claim.claim(session, [id], "w"), no_limit)]
        clock.shift(max(executor.OUTAGE_DELAYS_SECONDS))
    record = session.get_one(JobRecord, id, populate_existing=True)
    assert (record.state, record.error_type) == (JobState.FAILED, "PoisonPillError")
    assert states.count(JobState.RETRYABLE) == len(executor.OUTAGE_DELAYS_SECONDS) - 1
    assert (record.attempt, "database is locked" in record.error_message) == (1, True)


def test_a_chunk_whose_answers_meet_an_outage_while_it_ends_keeps_them_until_the_database_is_back(
    app, session, monkeypatch
):
    """The answers contain the mails that were sent: if they were lost, the mails would be sent again."""
    monkeypatch.setattr(executor, "DATABASE_RETRY_SECONDS", 0)
    troubles = [database_locked()]

    def save(session, answers) -> None:
        if troubles:
            raise troubles.pop()

    def chunk(chunk) -> None:
        chunk.before_commit(save)
        chunk.answer(next(iter(chunk)), "done")
        monkeypatch.setattr("flask_belfry.execution.chunk.COMMIT_SECONDS", 0)  # from here on every answer commits
        raise RuntimeError("halfway")

    behaviour["chunk"] = chunk
    ids = [enqueue("test.act_in_chunks", ticket_id=n) for n in range(3)]
    session.commit()
    executor.run(app, claim.claim(session, ids, "w"), no_limit)
    records = [session.get_one(JobRecord, id, populate_existing=True) for id in ids]
    assert [record.state for record in records] == [JobState.COMPLETED, JobState.RETRYABLE, JobState.RETRYABLE]
    assert not troubles


def test_a_heavy_worker_outlives_a_database_that_is_away_at_its_beat(app, session, valkey, monkeypatch):
    worker = ForkingWorker(["heavy"], connection=valkey.client())

    def away(*_: object) -> int:
        raise OperationalError("SELECT", {}, sqlite3.OperationalError("away"))

    monkeypatch.setattr(heartbeat, "recover_orphans", away)
    worker._beat()
    session.rollback()
    assert session.scalar(sa.select(WorkerProcess.kind).where(WorkerProcess.name == worker.name)) == "heavy"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_horse_that_does_not_hear_its_timeout_is_killed_and_has_timed_out(app, session, valkey, monkeypatch):
    def act(session, ticket_id: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(60)

    behaviour["act"] = act
    id = enqueue("test.act")
    session.commit()
    monkeypatch.setattr("flask_belfry.workers.forking.LAST_RESORT_SECONDS", 0.5)
    worker = ForkingWorker(["default"], connection=valkey.client())
    monkeypatch.setattr(worker, "_install_signal_handlers", lambda: None)
    assert worker.work(max_jobs=1)
    record = session.get_one(JobRecord, id, populate_existing=True)
    assert (record.state, record.error_type) == (JobState.RETRYABLE, "JobTimeoutError")
    assert session.scalars(sa.select(JobAttempt.outcome)).all() == [AttemptOutcome.TIMED_OUT]


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


def test_a_long_chain_of_eager_jobs_runs_to_its_end(settings, tmp_path):
    from tests.conftest import make_app

    def act(session, ticket_id: int) -> None:
        if ticket_id:
            enqueue("test.act", ticket_id=ticket_id - 1)

    behaviour["act"] = act
    eager = make_app({**settings, "JOBS_EAGER": "true"}, tmp_path / "eager")
    with eager.app_context():
        enqueue("test.act", ticket_id=150)
        db.session.commit()
        states = db.session.scalars(sa.select(JobRecord.state)).all()
        assert states == [JobState.COMPLETED] * 151
        db.session.remove()
        db.engine.dispose()
