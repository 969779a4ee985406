"""Interrupted attempts: when they are counted, and when the job is a poison pill."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa

from flask_belfry.execution import NO_RETRY, RetryPolicy, attempts, claim, executor
from flask_belfry.execution.attempts import Part
from flask_belfry.execution.quarantine import next_quarantined, quarantined_among
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.outbox import JobRecord, JobState, enqueue
from tests.domain import behaviour
from tests.executions import database_locked
from tests.job_records import asked, attempts_of, read


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
    assert quarantined_among(session, [id]) == [id]
    assert next_quarantined(session, ["default", "mail"]) == id
    assert next_quarantined(session, ["bulk"]) is None
    (item,) = claim.claim(session, [id], "w")
    assert next_quarantined(session, ["default"]) is None
    attempts.fail(session, item, ValueError("an end like any other"), NO_RETRY)
    session.commit()
    assert (read(session, id).interruptions, read(session, id).suspicion) == (0, 0)


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


@pytest.mark.parametrize("name", ["test.act", "test.act_in_chunks"])
def test_a_job_that_causes_its_own_lock_conflicts_is_not_retried_forever(app, session, clock, name):
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
