"""Running jobs: one commit for a job's changes and its new state, the fence, retries, time limits, chunks."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from datetime import timedelta

import pytest
import sqlalchemy as sa
import time_machine
from flask.globals import app_ctx
from rq import Queue
from rq.serializers import DefaultSerializer, JSONSerializer
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.db import BelfrySession, db, table_of
from flask_belfry.db.columns import new_id
from flask_belfry.execution import NO_RETRY, RetryPolicy, attempts, check_cancelled, claim, executor
from flask_belfry.execution.attempts import Part
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.outbox import (
    JobArgumentError,
    JobRecord,
    JobState,
    UnknownJobError,
    cancel,
    enqueue,
    registry,
    retry,
)
from flask_belfry.outbox.models import AttemptOutcome
from flask_belfry.workers.forking import ForkingWorker
from flask_belfry.workers.threaded import ThreadedWorker
from tests.domain import Ticket, TicketStatus, behaviour
from tests.job_records import asked, attempts_of, read
from tests.servers import wait_until


def run(app, *items: claim.Claim) -> executor.Transitions:
    db.session.rollback()
    return executor.run(app, items, no_limit)


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


def test_the_changes_of_a_job_commit_with_its_end(session, work):
    def act(session: Session, ticket_id: int) -> None:
        session.add(Ticket(title="made by the job"))

    behaviour["act"] = act
    id = asked(session)
    work()
    assert read(session, id).state is JobState.COMPLETED
    assert session.scalars(sa.select(Ticket.title)).all() == ["made by the job"]


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


def commit_after_remove(session: Session) -> None:
    db.session.remove()
    db.session.add(Ticket(title="sneaky"))
    db.session.commit()


def commit_in_a_nested_context(session: Session) -> None:
    with app_ctx.app.app_context():
        db.session.add(Ticket(title="sneaky"))
        db.session.commit()


def commit_in_a_session_of_its_own(session: Session) -> None:
    session.rollback()
    with Session(db.engine) as own:
        own.add(Ticket(title="sneaky"))
        own.commit()


def commit_by_statement(text: str) -> Callable[[Session], None]:
    def commit(session: Session) -> None:
        session.connection().execute(INSERT)
        session.execute(sa.text(text))

    return commit


def commit_each_statement(session: Session) -> None:
    session.rollback()
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(INSERT)


def commit_and_go_on(session: Session) -> None:
    session.connection().execute(INSERT)
    with contextlib.suppress(Exception):
        session.connection().commit()


INSERT = sa.insert(table_of(Ticket)).values(title="sneaky")
WAYS_TO_COMMIT: dict[str, Callable[[Session], object]] = {
    "session": lambda session: (session.add(Ticket(title="sneaky")), session.commit()),
    "after remove": commit_after_remove,
    "nested context": commit_in_a_nested_context,
    "own session": commit_in_a_session_of_its_own,
    "connection": lambda session: (session.connection().execute(INSERT), session.connection().commit()),
    "transaction": lambda session: (session.connection().execute(INSERT), session.get_transaction().commit()),
    "COMMIT": commit_by_statement("COMMIT"),
    "comment and END": commit_by_statement("-- done\n /* really */ end"),
    "ROLLBACK": commit_by_statement("ROLLBACK"),
    "two statements": commit_by_statement("SELECT 1; COMMIT"),
    "AUTOCOMMIT": commit_each_statement,
    "swallowed": commit_and_go_on,
}


@pytest.mark.parametrize("way", WAYS_TO_COMMIT)
def test_a_job_that_commits_itself_is_refused_whichever_way_it_tries(app, session, way):
    behaviour["act"] = lambda session, ticket_id: WAYS_TO_COMMIT[way](session) and None
    id = asked(session)
    run(app, *claim.claim(session, [id], "w"))
    assert read(session, id).error_type == "CommitInJobError"
    assert session.scalars(sa.select(Ticket.title)).all() == []


def test_a_job_may_use_savepoints(session, work):
    def act(session: Session, ticket_id: int) -> None:
        with session.begin_nested():
            session.add(Ticket(title="inside"))
        savepoint = session.begin_nested()
        session.add(Ticket(title="taken back"))
        savepoint.rollback()

    behaviour["act"] = act
    id = asked(session)
    work()
    assert read(session, id).state is JobState.COMPLETED
    assert session.scalars(sa.select(Ticket.title)).all() == ["inside"]


def test_jobs_that_a_job_asks_for_exist_only_if_it_completes(session, work):
    def act(session: Session, ticket_id: int) -> None:
        enqueue("test.greet", ticket_id=ticket_id)
        if ticket_id == 13:
            raise RuntimeError

    behaviour["act"] = act
    asked(session, ticket_id=1)
    asked(session, ticket_id=13)
    work()
    session.rollback()
    greeted = session.scalars(sa.select(JobRecord).where(JobRecord.name == "test.greet")).all()
    assert [(record.args, record.state) for record in greeted] == [({"ticket_id": 1}, JobState.COMPLETED)]


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


def test_an_interruption_uses_up_no_attempt_and_the_third_in_a_row_is_poison(session):
    id = asked(session)
    for number in (1, 2):
        (item,) = claim.claim(session, [id], "w")
        assert item.attempt == 1
        assert attempts.interrupt(session, item, "SIGKILL") is JobState.PENDING
        session.commit()
        assert read(session, id).interruptions == number
    (item,) = claim.claim(session, [id], "w")
    assert attempts.interrupt(session, item, "SIGKILL") is JobState.FAILED
    session.commit()
    record = read(session, id)
    assert record.error_type == "PoisonPillError"
    assert "3 times in a row, last: SIGKILL" in record.error_message


@pytest.mark.parametrize(
    ("part", "interruptions", "suspicion", "state"),
    [
        (Part.OWN, 3, 1, JobState.FAILED),
        (Part.ALONE, 3, 2, JobState.FAILED),
        (Part.NAMED, 2, 2, JobState.PENDING),  # the last one has to be seen alone
        (Part.POSSIBLE, 2, 2, JobState.PENDING),
        (Part.NONE, 2, 1, JobState.PENDING),
    ],
)
def test_only_a_crash_that_was_surely_a_jobs_own_fails_it(session, part, interruptions, suspicion, state):
    id = asked(session)
    session.execute(sa.update(JobRecord).values(interruptions=2, suspicion=1))
    session.commit()
    (item,) = claim.claim(session, [id], "w")
    assert attempts.interrupt(session, item, "SIGSEGV", part) is state
    session.commit()
    record = read(session, id)
    assert (record.interruptions, record.suspicion) == (interruptions, suspicion)
    assert len(attempts_of(session, id)) == 1


def test_a_named_crash_counts_and_sends_the_job_to_quarantine(session):
    id = asked(session)
    (item,) = claim.claim(session, [id], "w")
    attempts.interrupt(session, item, "SIGSEGV", Part.NAMED)
    session.commit()
    assert (read(session, id).interruptions, read(session, id).suspicion) == (1, 2)
    assert claim.claim(session, [id], "w", with_quarantined=False) == []
    assert claim.quarantined_among(session, [id]) == [id]
    assert claim.next_quarantined(session, ["default", "mail"]) == id
    assert claim.next_quarantined(session, ["bulk"]) is None
    (item,) = claim.claim(session, [id], "w")
    assert claim.next_quarantined(session, ["default"]) is None
    attempts.fail(session, item, ValueError("an end like any other"), NO_RETRY)
    session.commit()
    assert (read(session, id).interruptions, read(session, id).suspicion) == (0, 0)


def test_a_job_that_takes_too_long_is_stopped(session, work):
    def act(session: Session, ticket_id: int) -> None:
        ends_at = time.monotonic() + 30
        while time.monotonic() < ends_at:
            with contextlib.suppress(Exception):  # a job's own handling of errors must not swallow the timeout
                time.sleep(0.01)

    behaviour["act"] = act
    id = asked(session)
    began = time.monotonic()
    work()
    assert time.monotonic() - began < 15
    record = read(session, id)
    assert (record.state, record.error_type) == (JobState.RETRYABLE, "JobTimeoutError")
    assert record.error_message == "took longer than its 2 s"
    assert attempts_of(session, id)[0].outcome is AttemptOutcome.TIMED_OUT


def test_a_timeout_of_one_job_does_not_hit_the_next_on_its_thread(app, session, work):
    app.config["WORKER_THREADS"] = 1

    def act(session: Session, ticket_id: int) -> int:
        ends_at = time.monotonic() + (30 if ticket_id == 1 else 0.2)
        while time.monotonic() < ends_at:
            sum(range(100))
        return ticket_id

    behaviour["act"] = act
    slow = asked(session, ticket_id=1)
    others = [asked(session, ticket_id=2), asked(session, ticket_id=3)]
    work()
    assert read(session, slow).error_type == "JobTimeoutError"
    assert [read(session, id).state for id in others] == [JobState.COMPLETED] * 2


def test_a_burst_looks_again_into_a_queue_that_was_at_its_prefetch_limit(app, session, work, monkeypatch):
    """Its one thread is idle while the completion of the first job, which changed nothing, is being committed."""
    app.config["WORKER_THREADS"] = 1
    fetch = ThreadedWorker._fetch

    def fetch_late(worker: ThreadedWorker, capacity: Mapping[str, int], *, block: bool) -> list[str]:
        if len(capacity) < len(worker.queues):
            wait_until(lambda: not worker._in_flight)
        return fetch(worker, capacity, block=block)

    monkeypatch.setattr(ThreadedWorker, "_fetch", fetch_late)
    behaviour["act"] = lambda session, ticket_id: time.sleep(0.6)  # long: the worker holds one at a time
    ids = [asked(session, ticket_id=n) for n in range(3)]
    work()
    assert [read(session, id).state for id in ids] == [JobState.COMPLETED] * 3


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


def test_an_unknown_name_fails_in_the_callers_face(session):
    with pytest.raises(UnknownJobError, match=r"no job is named 'test.no_such'"):
        enqueue("test.no_such")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({}, "ticket_id: is required by test.greet"),
        ({"ticket_id": 1, "extra": 2}, "extra: is not an argument of test.greet"),
        ({"ticket_id": object()}, "ticket_id: must be an id, a scalar or a list of them, not object"),
        ({"ticket_id": {"a": 1}}, "must be an id, a scalar or a list of them, not dict"),
        ({"ticket_id": utc_now()}, "must be an id, a scalar or a list of them, not datetime"),
        ({"ticket_id": "x" * 3000}, "more than 2000 bytes"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(session, args, says):
    with pytest.raises(JobArgumentError, match=says):
        enqueue("test.greet", **args)


def test_a_job_whose_function_is_gone_fails_with_a_clear_error(session, work):
    registry.job("test.short_lived")(lambda session: None)
    id = asked(session, "test.short_lived")
    registry.forget("test.short_lived")
    work()
    record = read(session, id)
    assert (record.state, record.error_type) == (JobState.FAILED, "UnknownJobError")


def test_only_ids_travel_through_redis_and_nothing_is_pickled(session, broker):
    id = asked(session, "test.greet", ticket_id=4711)
    stored = broker.hgetall(f"rq:job:{id}")
    payload = json.loads(stored[b"data"])
    assert payload == ["flask_belfry.workers.entry.run", None, [], {"record_id": id}]
    assert b"4711" not in b"".join(stored.values())


def test_foreign_and_unknown_ids_in_a_queue_hold_nobody_up(session, work, broker):
    runs = []
    behaviour["act"] = lambda session, ticket_id: runs.append(1)
    broker.rpush("rq:queue:default", "not-a-uuid", new_id(), b"\xff\xfe")
    id = asked(session)
    work()
    assert runs == [1]
    assert read(session, id).state is JobState.COMPLETED


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("serializer", [JSONSerializer, DefaultSerializer])
@pytest.mark.parametrize("worker_class", [ThreadedWorker, ForkingWorker])
def test_a_forged_job_of_rq_runs_nothing(session, work, valkey, broker, tmp_path, worker_class, serializer):
    """A client of Redis can write a job with any function, also under the id of one of ours."""
    behaviour["act"] = lambda session, ticket_id: None
    id = asked(session)
    trace = tmp_path / "forged"
    queue = Queue("default", connection=broker, serializer=serializer)
    for forged_id in (new_id(), "forged"):
        queue.enqueue("os.mkdir", str(trace), job_id=forged_id)
    broker.hset(f"rq:job:{id}", "data", zlib.compress(serializer.dumps(("os.mkdir", None, (str(trace),), {}))))
    session.rollback()
    worker_class(["default"], connection=valkey.client()).work(burst=True)
    assert not trace.exists()
    assert broker.llen("rq:queue:default") == 0
    assert read(session, id).state is JobState.COMPLETED


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


def test_a_singleton_lives_once_whoever_asks(session):
    first = enqueue("reservations.sweep_overdue")
    assert enqueue("reservations.sweep_overdue") == first
    with pytest.raises(JobArgumentError, match="its own unique key"):
        enqueue("reservations.sweep_overdue", unique_key="another")
    session.commit()


def test_a_chunk_gets_many_records_at_once_and_one_bad_one_spoils_nothing(app, session, work):
    app.config["WORKER_THREADS"] = 1
    sizes = []

    def chunk(chunk) -> None:
        sizes.append(len(chunk))
        for item in chunk:
            if item.args["ticket_id"] % 10 == 3:
                chunk.fail(item, RuntimeError("bad one"))
            else:
                chunk.answer(item, {"n": item.args["ticket_id"]})

    behaviour["chunk"] = chunk
    ids = [enqueue("test.act_in_chunks", ticket_id=n) for n in range(20)]
    session.commit()
    # One thread has taken a first job by itself before it knows how long they take.
    work()
    states = {read(session, id).state for id in ids if ids.index(id) % 10 != 3}
    assert states == {JobState.COMPLETED}
    assert [read(session, ids[n]).state for n in (3, 13)] == [JobState.RETRYABLE] * 2
    assert read(session, ids[5]).result == {"n": 5}
    assert max(sizes) > 1


def test_what_a_chunk_leaves_unanswered_fails_and_what_it_answered_stands(app, session):
    def chunk(chunk) -> None:
        items = list(chunk)
        chunk.answer(items[0], "done")
        raise RuntimeError("halfway")

    behaviour["chunk"] = chunk
    ids = [enqueue("test.act_in_chunks", ticket_id=n) for n in range(3)]
    session.commit()
    items = claim.claim(session, ids, "w")
    run(app, *items)
    assert read(session, ids[0]).state is JobState.COMPLETED
    assert [read(session, id).error_message for id in ids[1:]] == ["halfway"] * 2


def test_a_chunks_side_effects_commit_with_its_answers_and_only_for_claims_that_hold(app, session):
    saved = []

    def chunk(chunk) -> None:
        chunk.before_commit(lambda session, answers: saved.extend(answer.item.id for answer in answers))
        for item in chunk:
            chunk.answer(item)

    behaviour["chunk"] = chunk
    ids = [enqueue("test.act_in_chunks", ticket_id=n) for n in range(3)]
    session.commit()
    items = claim.claim(session, ids, "late")
    attempts.interrupt(session, items[1], "thought dead")
    session.commit()
    run(app, *items)
    assert saved == [ids[0], ids[2]]
    assert read(session, ids[1]).state is JobState.PENDING


def test_eager_jobs_run_in_the_caller_after_its_commit(settings, tmp_path):
    from tests.conftest import make_app

    eager = make_app({**settings, "JOBS_EAGER": "true", "REDIS_URL": "redis://127.0.0.1:1"}, tmp_path / "eager")
    with eager.app_context():
        db.session.add(Ticket(title="a"))
        db.session.flush()
        assert db.session.scalars(sa.select(JobRecord.state)).all() == [JobState.PENDING]
        db.session.commit()
        assert db.session.scalars(sa.select(JobRecord.state)).all() == [JobState.COMPLETED]
        ticket = db.session.scalars(sa.select(Ticket)).one()
        ticket.status = TicketStatus.DONE
        db.session.commit()
        told = db.session.scalars(sa.select(JobRecord).where(JobRecord.name == "test.tell")).one()
        assert told.result == {"old": "open", "new": "done"}
        db.session.remove()
        db.engine.dispose()


def test_a_job_knows_why_it_exists(session, work):
    from flask_belfry.changes import Actor, Subject, current_actor, use_actor

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


def test_a_late_start_of_the_worker_still_finds_what_was_committed(session, broker, work):
    behaviour["act"] = lambda session, ticket_id: "ran"
    id = asked(session)
    assert broker.llen("rq:queue:default") == 1
    work()
    wait_until(lambda: read(session, id).state is JobState.COMPLETED)
