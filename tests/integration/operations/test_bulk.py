"""Bulk operations: fixed jobs, pages that commit, pacing by due times, the canary, undo; on both databases."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry import outbox
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, InvalidInputError
from flask_belfry.db import db
from flask_belfry.db.columns import new_id
from flask_belfry.db.tenancy import Scope, use_scope
from flask_belfry.execution import claim, executor
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.operations import BulkKind, BulkOperation, BulkOperationJob, BulkState, bulk
from flask_belfry.outbox import JobRecord, JobState, WorkerProcess
from flask_belfry.outbox.models import AttemptOutcome
from tests.job_records import asked, attempts_of, count, read, state_of, waits_for_lock
from tests.servers import wait_until

CAUSE = "0123456789abcdef"


def failed_jobs(session: Session, number: int, **values: Any) -> list[str]:
    """Write jobs that failed a second ago, the oldest first, and commit."""
    failed = {"name": "test.echo", "queue": "default", "state": JobState.FAILED, "args": {}, "timeout_seconds": 60}
    failed |= {"attempt": 1, "claims": 1, "fingerprint": CAUSE, **values}
    at = utc_now() - timedelta(seconds=1)
    moments = [at + timedelta(milliseconds=each) for each in range(number)]
    rows = [JobRecord(**failed, id=new_id(each), created_at=each, finished_at=each) for each in moments]
    session.add_all(rows)
    session.commit()
    return [row.id for row in rows]


def waiting_jobs(session: Session, number: int) -> list[str]:
    """Write jobs that wait, the oldest first, and commit."""
    ids = failed_jobs(session, number, attempt=0, claims=0)
    set_states(session, ids, state=JobState.PENDING, finished_at=None)
    return ids


def set_states(session: Session, ids: list[str], **values: Any) -> None:
    """Change jobs as workers would, and commit."""
    session.execute(sa.update(JobRecord).where(JobRecord.id.in_(ids)).values(values))
    session.commit()


def begun(session: Session, kind: BulkKind = BulkKind.RETRY, query: str = "name:test.echo", **options: Any) -> str:
    """Begin an operation, commit, and return its id."""
    id = bulk.begin(kind, query, **options).id
    session.commit()
    return id


def operation(session: Session, id: str) -> BulkOperation:
    """Return an operation as it is now, detached from the session."""
    session.rollback()
    found = session.get_one(BulkOperation, id, populate_existing=True)
    session.expunge(found)
    session.rollback()
    return found


def changed(session: Session, id: str) -> list[str]:
    """Return the jobs that an operation changed, the oldest first."""
    query = sa.select(BulkOperationJob.job_id).where(BulkOperationJob.operation_id == id)
    found = list(session.scalars(query.order_by(BulkOperationJob.job_id)))
    session.rollback()
    return found


@pytest.fixture
def run(app, session, clock) -> Callable[[str], JobState]:
    """Runs the job of an operation as a worker does, and returns its new state."""

    def run(id: str, should_stop: Callable[[], bool] = lambda: False) -> JobState:
        clock.shift(0.01)
        items = claim.claim(session, [str(operation(session, id).job_id)], "w")
        ((_, state),) = executor.run(app, items, no_limit, should_stop)
        return state

    return run


def test_the_jobs_that_match_when_it_is_begun_are_retried_page_by_page(session, run, clock, monkeypatch):
    monkeypatch.setattr(bulk, "PAGE_JOBS", 2)
    ids = failed_jobs(session, 5)
    other = failed_jobs(session, 1, name="test.fail")
    id = begun(session)
    clock.shift(2)
    late = failed_jobs(session, 1)
    assert run(id) is JobState.COMPLETED
    done = operation(session, id)
    assert (done.state, done.total, done.done, done.changed) == (BulkState.FINISHED, 5, 5, 5)
    assert done.finished_at is not None
    assert changed(session, id) == ids
    assert {state_of(session, each) for each in ids} == {JobState.PENDING}
    assert {state_of(session, each) for each in (*other, *late)} == {JobState.FAILED}
    assert read(session, str(done.job_id)).progress_done == 5


def test_a_job_whose_end_is_committed_after_the_count_is_one_of_the_total(session, run):
    failed_jobs(session, 2)
    id = begun(session)
    failed_jobs(session, 1)  # it failed a second ago
    run(id)
    done = operation(session, id)
    assert (done.total, done.done, done.changed) == (3, 3, 3)


def test_it_is_resumed_where_it_has_come_and_does_nothing_twice(session, run, monkeypatch):
    monkeypatch.setattr(bulk, "PAGE_JOBS", 2)
    ids = failed_jobs(session, 5)
    id = begun(session)
    asks = iter((False, True))
    assert run(id, lambda: next(asks)) is JobState.PENDING
    assert changed(session, id) == ids[:2]
    set_states(session, ids[:2], state=JobState.FAILED)  # they have failed again: not a second time
    assert run(id) is JobState.COMPLETED
    done = operation(session, id)
    assert (done.state, done.done, done.changed) == (BulkState.FINISHED, 5, 5)
    assert [state_of(session, each) for each in ids] == [JobState.FAILED] * 2 + [JobState.PENDING] * 3


def test_a_job_whose_key_another_one_holds_is_left_out_and_the_others_are_retried(session, run):
    ids = failed_jobs(session, 3)
    set_states(session, ids[1:2], unique_key="held")
    outbox.enqueue("test.greet", unique_key="held", ticket_id=1)
    session.commit()
    id = begun(session)
    assert run(id) is JobState.COMPLETED
    done = operation(session, id)
    assert (done.total, done.done, done.changed) == (3, 3, 2)
    assert changed(session, id) == [ids[0], ids[2]]


def test_a_paced_operation_snoozes_until_its_next_page_is_due(session, run, clock):
    ids = failed_jobs(session, 25)
    id = begun(session, per_second=2)
    assert run(id) is JobState.SCHEDULED
    assert changed(session, id) == ids[:10]  # of five seconds
    paced = operation(session, id)
    job = read(session, str(paced.job_id))
    assert job.scheduled_at == paced.next_page_at
    assert paced.next_page_at == utc_now() + timedelta(seconds=5)
    clock.move_to(job.scheduled_at)
    assert run(id) is JobState.SCHEDULED
    clock.shift(5)
    assert run(id) is JobState.COMPLETED
    assert changed(session, id) == ids


def test_another_job_continues_when_one_has_snoozed_too_often(app, session, run, clock):
    app.config["MAX_SNOOZES"] = 1
    ids = failed_jobs(session, 4)
    id = begun(session, per_second=0.1)
    first = operation(session, id).job_id
    states = []
    while operation(session, id).state is BulkState.RUNNING:
        states.append(run(id))
        clock.shift(10)
    assert states == [JobState.SCHEDULED, JobState.COMPLETED, JobState.SCHEDULED, JobState.COMPLETED]
    assert operation(session, id).job_id != first
    assert changed(session, id) == ids


def test_the_rest_waits_until_the_canary_has_ended_well(session, run, clock):
    ids = failed_jobs(session, 5)
    id = begun(session, canary=2)
    assert run(id) is JobState.SCHEDULED
    assert changed(session, id) == ids[:2]
    assert run_after(run, clock, id) is JobState.SCHEDULED
    set_states(session, ids[:2], state=JobState.COMPLETED)
    assert run_after(run, clock, id) is JobState.COMPLETED
    assert changed(session, id) == ids
    assert operation(session, id).state is BulkState.FINISHED


def run_after(run: Callable[[str], JobState], clock: Any, id: str) -> JobState:
    """Run the job of an operation when it has snoozed."""
    clock.shift(120)
    return run(id)


@pytest.mark.parametrize(
    ("values", "is_stopped"),
    [
        ({"state": JobState.FAILED, "fingerprint": "another"}, True),
        ({"state": JobState.RETRYABLE, "attempt": 1}, True),
        ({"state": JobState.RETRYABLE, "attempt": 1, "fingerprint": "another"}, False),
        ({"state": JobState.RETRYABLE, "attempt": 0}, False),  # released, no attempt has failed
    ],
)
def test_it_stops_when_the_canary_fails_again(session, run, clock, values, is_stopped):
    ids = failed_jobs(session, 5)
    id = begun(session, canary=2)
    run(id)
    set_states(session, ids[:1], error_type="ConnectionRefusedError", **values)
    expected = (JobState.COMPLETED, BulkState.STOPPED) if is_stopped else (JobState.SCHEDULED, BulkState.RUNNING)
    assert (run_after(run, clock, id), operation(session, id).state) == expected
    reason = "1 of the first 2 jobs failed again: ConnectionRefusedError." if is_stopped else None
    assert operation(session, id).reason == reason
    assert [state_of(session, each) for each in ids[2:]] == [JobState.FAILED] * 3


def test_it_stops_when_many_of_the_rest_fail_again(session, run, clock):
    ids = failed_jobs(session, 40)
    id = begun(session, canary=1, per_second=4)
    run(id)
    set_states(session, ids[:1], state=JobState.COMPLETED)
    run_after(run, clock, id)
    assert changed(session, id) == ids[:21]
    set_states(session, ids[1:17], state=JobState.COMPLETED)
    set_states(session, ids[17:21], state=JobState.FAILED)
    run_after(run, clock, id)
    assert changed(session, id) == ids  # 4 of 21 are too few
    assert operation(session, id).failed == 4
    assert operation(session, id).state is BulkState.FINISHED


def test_it_stops_when_more_than_a_fifth_of_the_rest_fails_again(session, run, clock):
    ids = failed_jobs(session, 40)
    id = begun(session, canary=1, per_second=4)
    run(id)
    set_states(session, ids[:1], state=JobState.COMPLETED)
    run_after(run, clock, id)
    set_states(session, ids[1:16], state=JobState.COMPLETED)
    set_states(session, ids[16:21], state=JobState.FAILED)
    run_after(run, clock, id)
    stopped = operation(session, id)
    assert (stopped.state, stopped.reason) == (BulkState.STOPPED, "5 of 21 jobs failed again.")
    assert changed(session, id) == ids[:21]


def test_waiting_jobs_are_cancelled_and_running_ones_are_requested_to_stop(session, run):
    ids = waiting_jobs(session, 3)
    set_states(session, ids[:1], state=JobState.RUNNING)
    id = begun(session, BulkKind.CANCEL)
    run(id)
    assert read(session, ids[0]).cancel_requested
    assert [state_of(session, each) for each in ids[1:]] == [JobState.CANCELLED] * 2
    assert operation(session, id).changed == 3


def test_what_is_enqueued_after_it_was_begun_is_not_cancelled(session, run, clock):
    ids = waiting_jobs(session, 2)
    id = begun(session, BulkKind.CANCEL)
    clock.shift(10)
    (late,) = waiting_jobs(session, 1)
    run(id)
    assert changed(session, id) == ids
    assert state_of(session, late) is JobState.PENDING


def test_undoing_a_retry_cancels_what_has_not_started(session, run):
    ids = failed_jobs(session, 3)
    id = begun(session)
    run(id)
    set_states(session, ids[:1], state=JobState.RETRYABLE, attempt=1)
    undo = bulk.undo(id)
    session.commit()
    run(undo.id)
    assert [state_of(session, each) for each in ids] == [JobState.RETRYABLE, JobState.CANCELLED, JobState.CANCELLED]
    with pytest.raises(ConflictError):
        bulk.undo(id)
    with pytest.raises(ConflictError):
        bulk.undo(undo.id)


def test_undoing_a_cancellation_retries_what_it_cancelled(session, run):
    ids = waiting_jobs(session, 2)
    (before,) = waiting_jobs(session, 1)
    outbox.cancel([before])
    session.commit()
    id = begun(session, BulkKind.CANCEL)
    run(id)
    undo = bulk.undo(id)
    session.commit()
    run(undo.id)
    assert [state_of(session, each) for each in ids] == [JobState.PENDING] * 2
    assert state_of(session, before) is JobState.CANCELLED


def test_a_cancelled_operation_changes_nothing_more(session, run, clock):
    ids = failed_jobs(session, 12)
    id = begun(session, per_second=2)
    run(id)
    bulk.cancel(id)
    session.commit()
    stopped = operation(session, id)
    assert (stopped.state, state_of(session, stopped.job_id)) == (BulkState.CANCELLED, JobState.CANCELLED)
    assert [state_of(session, each) for each in ids[10:]] == [JobState.FAILED] * 2
    with pytest.raises(ConflictError):
        bulk.cancel(id)


def test_an_operation_ends_when_its_job_is_cancelled_like_any_other(session):
    failed_jobs(session, 1)
    id = begun(session)
    outbox.cancel([operation(session, id).job_id])
    session.commit()
    assert operation(session, id).state is BulkState.CANCELLED


def test_another_job_of_an_operation_changes_nothing(app, session):
    failed_jobs(session, 1)
    id = begun(session)
    other = asked(session, bulk.RUN, operation_id=id)
    ((_, state),) = executor.run(app, claim.claim(session, [other], "w"), no_limit)
    assert (state, changed(session, id)) == (JobState.COMPLETED, [])


def test_old_operations_that_have_ended_are_deleted_with_their_jobs(session, run, clock):
    failed_jobs(session, 2)
    ended = begun(session)
    run(ended)
    failed_jobs(session, 1)
    running = begun(session)
    clock.shift(100)
    assert bulk.prune_operations(session, timedelta(seconds=99)) == 1
    session.commit()
    assert session.scalars(sa.select(BulkOperation.id)).all() == [running]
    assert changed(session, ended) == []


def test_selected_jobs_are_retried_whatever_ended_them(session, run):
    ids = failed_jobs(session, 3)
    set_states(session, ids[:1], state=JobState.CANCELLED)
    id = begun(session, query="2 selected jobs", ids=ids[:2])
    run(id)
    assert changed(session, id) == ids[:2]


def test_it_sees_the_jobs_of_its_school_only(session, run):
    ours, theirs, systems = (failed_jobs(session, 1, school_id=school_id) for school_id in (7, 8, None))
    with use_scope(Scope(7)):
        id = begun(session)
        with pytest.raises(InvalidInputError):
            bulk.begin(BulkKind.RETRY, "", ids=theirs)
    run(id)
    assert (operation(session, id).school_id, changed(session, id)) == (7, ours)
    assert [state_of(session, *each) for each in (theirs, systems)] == [JobState.FAILED] * 2


@pytest.mark.parametrize(
    "options", [{"canary": 0}, {"per_second": 0}, {"ids": []}, {"ids": ["x"]}, {"kind": BulkKind.CANCEL, "canary": 1}]
)
def test_invalid_options_are_refused(session, options):
    failed_jobs(session, 1)
    with pytest.raises(InvalidInputError):
        bulk.begin(**{"kind": BulkKind.RETRY, "query_text": "", **options})


def test_an_operation_over_nothing_is_refused(session):
    with pytest.raises(InvalidInputError, match="No job can be retried"):
        bulk.begin(BulkKind.RETRY, "name:test.echo")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_worker_that_is_killed_within_a_page_leaves_nothing_undone_or_done_twice(session, processes):
    """The jobs fail again: those that were retried twice would have been claimed three times."""
    ids = failed_jobs(session, bulk.PAGE_JOBS + 100, name="test.fail")
    id = begun(session, query="name:test.fail")
    with db.engine.connect() as other:
        other.execute(sa.select(JobRecord.id).where(JobRecord.id == ids[-1]).with_for_update())
        processes.worker()
        wait_until(lambda: waits_for_lock(session), seconds=40)
        assert operation(session, id).done == bulk.PAGE_JOBS
        worker = read(session, str(operation(session, id).job_id)).worker
        os.kill(session.scalars(sa.select(WorkerProcess.pid).where(WorkerProcess.name == worker)).one(), signal.SIGKILL)
        session.rollback()
    wait_until(lambda: operation(session, id).state is BulkState.FINISHED, seconds=40)
    wait_until(lambda: count(session, JobRecord, JobRecord.claims >= 2, JobRecord.state == JobState.FAILED) == len(ids))
    assert changed(session, id) == ids
    assert operation(session, id).changed == len(ids)
    assert count(session, JobRecord, JobRecord.id.in_(ids), JobRecord.claims != 2) == 0
    outcomes = [attempt.outcome for attempt in attempts_of(session, str(operation(session, id).job_id))]
    assert outcomes == [AttemptOutcome.INTERRUPTED]
