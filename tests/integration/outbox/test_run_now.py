"""Jobs that wait for a time are run now."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from flask_belfry import outbox
from flask_belfry.core.clock import utc_now
from flask_belfry.outbox import JobRecord, JobState
from tests.job_records import asked, read, state_of

LATER = timedelta(hours=1)


def waiting(session, **values) -> str:
    """Return a job that waits for an hour, with these columns."""
    id = outbox.enqueue("test.echo", delay=LATER)
    session.execute(sa.update(JobRecord).where(JobRecord.id == id).values(**values) if values else sa.select(1))
    session.commit()
    return id


def test_scheduled_and_retryable_jobs_run_immediately_in_front_of_the_queue(session, broker, work):
    first = asked(session, "test.echo")
    scheduled, retryable = waiting(session), waiting(session, state=JobState.RETRYABLE, attempt=1, max_attempts=3)
    assert sorted(outbox.run_now([scheduled, retryable, first])) == sorted([scheduled, retryable])
    session.commit()
    assert broker.lrange("rq:queue:default", -1, -1) == [first.encode()]
    work()
    assert [state_of(session, id) for id in (first, scheduled, retryable)] == [JobState.COMPLETED] * 3
    assert read(session, retryable).attempt == 2


def test_it_happens_with_the_commit_only(session, work):
    id = waiting(session)
    outbox.run_now([id])
    session.rollback()
    work()
    assert state_of(session, id) is JobState.SCHEDULED


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.BLOCKED, JobState.FAILED, JobState.COMPLETED])
def test_jobs_that_wait_for_no_time_are_left(session, state):
    id = waiting(session, state=state)
    assert outbox.run_now([id]) == []
    session.commit()
    assert state_of(session, id) is state


def test_a_job_that_the_rate_of_its_limit_delays_is_left(session):
    at = utc_now() + LATER
    id = waiting(session, rate_slot_at=at, scheduled_at=at)
    assert outbox.run_now([id]) == []
