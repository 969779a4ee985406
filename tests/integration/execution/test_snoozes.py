"""Snoozes: jobs that cannot run yet, and wait without using an attempt."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.execution import RetryPolicy, Snooze, attempts, claim, current_job, executor
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.outbox import JobRecord, JobState, cancel, job, publisher, retry
from flask_belfry.outbox.models import AttemptOutcome
from flask_belfry.outbox.registry import forget
from tests.clocks import one_pass, scheduler
from tests.conftest import make_app
from tests.domain import Ticket, behaviour
from tests.executions import database_locked
from tests.job_records import asked, attempts_of, count, read


@pytest.fixture
def run(app, session) -> Callable[..., list[JobState]]:
    """Runs the next attempt of jobs as a worker does, and returns the new states."""

    def run(*ids: str) -> list[JobState]:
        session.rollback()
        items = claim.claim(session, ids, "w")
        return [state for _, state in executor.run(app, items, no_limit)] if items else []

    return run


def snooze(session: Session, ticket_id: int) -> None:
    session.add(Ticket(title="not to stay"))
    session.flush()
    raise Snooze(60, "FCM asks for a minute")


def test_a_snoozed_job_is_scheduled_again_without_an_attempt_and_without_its_changes(session, run, clock):
    behaviour["act"] = snooze
    id = asked(session)
    session.execute(sa.update(JobRecord).values(interruptions=2, suspicion=1))
    session.commit()
    with structlog.testing.capture_logs() as logs:
        assert run(id) == [JobState.SCHEDULED]
    record = read(session, id)
    assert (record.attempt, record.snoozes, record.interruptions, record.suspicion) == (0, 1, 0, 0)
    assert (record.scheduled_at, record.error_type) == (utc_now() + timedelta(seconds=60), None)
    (attempt,) = attempts_of(session, id)
    assert (attempt.number, attempt.outcome, attempt.traceback) == (1, AttemptOutcome.SNOOZED, None)
    assert (attempt.error_type, attempt.error_message) == ("Snooze", "FCM asks for a minute")
    assert count(session, Ticket) == 0
    (logged,) = [line for line in logs if line["event"] == "job.snoozed"]
    assert (logged["seconds"], logged["reason"], logged["times"]) == (60, "FCM asks for a minute", 1)

    clock.shift(59)
    assert run(id) == []  # it is not due
    clock.shift(2)
    behaviour["act"] = lambda session, ticket_id: current_job().claim.attempt
    assert run(id) == [JobState.COMPLETED]
    assert read(session, id).result == 1


def states_after(errors: list[Exception], id: str, run: Callable[..., Any], clock: Any, *, seconds: float) -> list[Any]:
    """Return the states of a job after each of its runs, which raise these errors and are so many seconds apart."""
    left, states = list(errors), []

    def act(session: Session, ticket_id: int) -> None:
        raise left.pop(0)

    behaviour["act"] = act
    while left:
        states += run(id)
        clock.shift(seconds)
    return states


def test_a_snooze_uses_no_attempt_between_others(session, run, clock):
    errors = [RuntimeError("1"), Snooze(1), RuntimeError("2"), Snooze(1), Snooze(1), RuntimeError("3")]
    states = states_after(errors, id := asked(session), run, clock, seconds=200)
    kept = [JobState.RETRYABLE, JobState.SCHEDULED]
    assert states == [*kept, *kept, JobState.SCHEDULED, JobState.FAILED]
    assert [attempt.number for attempt in attempts_of(session, id)] == [1, 2, 2, 3, 3, 3]


def test_after_its_last_snooze_a_job_fails_and_a_manual_retry_begins_again(app, session, run, clock):
    app.config["MAX_SNOOZES"] = 2
    behaviour["act"] = snooze
    id, states = asked(session), []
    for _ in range(3):
        states += run(id)
        clock.shift(61)
    assert states == [JobState.SCHEDULED, JobState.SCHEDULED, JobState.FAILED]
    record = read(session, id)
    assert (record.error_type, record.attempt, record.snoozes) == ("SnoozeLimitError", 1, 2)
    assert record.error_message == (
        "snoozed 2 times, the most that MAX_SNOOZES allows; the last reason: FCM asks for a minute"
    )
    assert retry([id]) == [id]
    session.commit()
    assert run(id) == [JobState.SCHEDULED]
    assert read(session, id).snoozes == 1


@pytest.mark.parametrize("seconds", [0, -1, 30 * 86_400 + 1, float("nan"), float("inf"), True, "60", None])
def test_a_snooze_of_no_use_is_refused(seconds):
    with pytest.raises(ValueError, match="seconds must be a number above 0 and at most 2592000"):
        Snooze(seconds)


def test_a_job_that_was_cancelled_is_not_snoozed(app, session):
    behaviour["act"] = snooze
    id = asked(session)
    (item,) = claim.claim(session, [id], "w")
    assert cancel([id]) == ([], [id])
    session.commit()
    assert executor.run(app, [item], no_limit) == [(id, JobState.CANCELLED)]
    assert [attempt.outcome for attempt in attempts_of(session, id)] == [AttemptOutcome.CANCELLED]
    assert read(session, id).scheduled_at is None


def test_a_lost_claim_snoozes_nothing(app, session):
    behaviour["act"] = snooze
    id = asked(session)
    (item,) = claim.claim(session, [id], "w")
    attempts.interrupt(session, item, "thought dead")
    session.commit()
    assert executor.run(app, [item], no_limit) == []
    assert read(session, id).state is JobState.PENDING


def test_a_snoozed_job_that_expires_before_it_is_due_is_cancelled_then(session, run, clock):
    behaviour["act"] = snooze
    id = asked(session, expires_at=utc_now() + timedelta(seconds=30))
    assert run(id) == [JobState.SCHEDULED]
    clock.shift(61)
    assert run(id) == []
    record = read(session, id)
    assert (record.state, record.error_type) == (JobState.CANCELLED, "JobExpiredError")


def test_a_snoozed_job_frees_its_slot(session, run):
    ids = [asked(session, "test.snooze_limited", key="a") for _ in range(5)]
    assert run(*ids) == [JobState.SCHEDULED] * 4
    assert [read(session, id).state for id in ids] == [JobState.SCHEDULED] * 4 + [JobState.PENDING]


def test_an_outage_after_many_snoozes_is_the_first_one(session, run, clock):
    errors = [*[Snooze(1) for _ in range(20)], database_locked()]
    states = states_after(errors, id := asked(session), run, clock, seconds=2)
    assert states == [JobState.SCHEDULED] * 20 + [JobState.PENDING]
    assert read(session, id).interruptions == 0


def test_records_of_a_chunk_snooze_each_for_itself(app, session, run, clock):
    def chunk(chunk) -> None:
        completed, called, answered, failed = chunk
        chunk.answer(completed, "done")
        chunk.snooze(called, 30, "called")
        chunk.answer(answered, Snooze(60, "answered"))
        chunk.fail(failed, RuntimeError("bad"))

    behaviour["chunk"] = chunk
    ids = [asked(session, "test.act_in_chunks", ticket_id=n) for n in range(4)]
    with structlog.testing.capture_logs() as logs:
        run(*ids)
    records = [read(session, id) for id in ids]
    snoozed = [JobState.SCHEDULED] * 2
    assert [record.state for record in records] == [JobState.COMPLETED, *snoozed, JobState.RETRYABLE]
    assert [(record.attempt, record.snoozes) for record in records] == [(1, 0), (0, 1), (0, 1), (1, 0)]
    delays = [record.scheduled_at - utc_now() for record in records[1:3]]
    assert delays == [timedelta(seconds=30), timedelta(seconds=60)]
    assert [attempts_of(session, id)[0].error_message for id in ids[1:3]] == ["called", "answered"]
    (ended,) = [line for line in logs if line["event"] == "chunk.ended"]
    assert (ended["scheduled"], ended["errors"]) == (2, ["RuntimeError"])


def test_a_chunk_that_raises_snooze_snoozes_what_it_has_not_answered(app, session, run):
    def chunk(chunk) -> None:
        chunk.answer(next(iter(chunk)))
        raise Snooze(60, "the rest later")

    behaviour["chunk"] = chunk
    ids = [asked(session, "test.act_in_chunks", ticket_id=n) for n in range(3)]
    run(*ids)
    assert [read(session, id).state for id in ids] == [JobState.COMPLETED, JobState.SCHEDULED, JobState.SCHEDULED]


def test_a_snoozed_job_survives_a_wiped_redis_and_runs_when_it_is_due(app, session, broker, work, clock):
    behaviour["act"] = snooze
    id = asked(session)
    work()
    assert read(session, id).state is JobState.SCHEDULED
    broker.flushall()
    behaviour["act"] = lambda session, ticket_id: "ran"
    timers = scheduler(app)
    clock.shift(59)
    one_pass(timers)
    work()
    assert read(session, id).state is JobState.SCHEDULED
    clock.shift(2)
    one_pass(timers)
    work()
    assert read(session, id).result == "ran"


def test_with_jobs_eager_a_snoozed_job_waits_for_a_worker(settings, tmp_path):
    behaviour["act"] = snooze
    eager = make_app({**settings, "JOBS_EAGER": "true"}, tmp_path / "eager")
    with eager.app_context():
        id = asked(db.session())
        assert read(db.session(), id).state is JobState.SCHEDULED
        publisher(eager).run_job_inline(id)  # brings delayed jobs forward, but its delay has a reason
        assert (read(db.session(), id).state, read(db.session(), id).claims) == (JobState.SCHEDULED, 1)
        db.session.remove()
        db.engine.dispose()


def test_a_retry_takes_its_delay_from_the_error(app, session, run, clock):
    policy = RetryPolicy((10, 10), delay_from=lambda error: error.args[0])

    @job("test.ask_for_delay", retry=policy)
    def ask_for_delay(session: Session, seconds: float | None = None) -> None:
        raise RuntimeError(seconds)

    try:
        ids = [asked(session, "test.ask_for_delay", seconds=seconds) for seconds in (None, 3, 500)]
        run(*ids)
        assert [read(session, id).scheduled_at - utc_now() for id in ids] == [
            timedelta(seconds=seconds) for seconds in (10, 3, 500)
        ]
    finally:
        forget("test.ask_for_delay")
