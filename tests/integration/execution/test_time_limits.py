"""Time limits of jobs."""

from __future__ import annotations

import contextlib
import threading
import time

from sqlalchemy.orm import Session

from flask_belfry.execution import time_limits
from flask_belfry.execution.time_limits import TimeLimits
from flask_belfry.outbox import JobState, JobTimeoutError
from flask_belfry.outbox.models import AttemptOutcome
from tests.domain import behaviour
from tests.job_records import asked, attempts_of, read


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
