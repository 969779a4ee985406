"""Jobs that crash or freeze the process they share: the record names the one that caused it, and no other job fails."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

import pytest
import sqlalchemy as sa

from flask_belfry.outbox import JobRecord, JobState, enqueue
from flask_belfry.outbox.models import AttemptOutcome
from tests.domain import behaviour
from tests.job_records import asked, attempts_of, count, read, state_is
from tests.processes import children_of, has_ended
from tests.servers import wait_until

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
# The fewest with which a job that crashed beside others runs once more, alone.
TWICE = {"MAX_INTERRUPTIONS": "2"}


def are(session, ids: Sequence[str], state: JobState):
    """Return a condition to wait for: all jobs are in this state."""
    return lambda: count(session, JobRecord, JobRecord.id.in_(ids), JobRecord.state == state) == len(ids)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_jobs_beside_three_that_crash_are_not_counted_and_complete(session, processes, tmp_path):
    innocent = [enqueue("test.wait", file=str(tmp_path / "go")) for _ in range(3)]
    session.commit()
    processes.worker(**TWICE)
    wait_until(are(session, innocent, JobState.RUNNING), seconds=60)
    crashing = [enqueue("test.segfault") for _ in range(3)]
    session.commit()
    wait_until(are(session, crashing, JobState.FAILED), seconds=120)
    more = [enqueue("test.greet", ticket_id=1)]
    session.commit()
    wait_until(are(session, more, JobState.COMPLETED), seconds=30)  # nothing holds up the queue
    (tmp_path / "go").touch()
    wait_until(are(session, innocent, JobState.COMPLETED), seconds=60)

    for id in crashing:
        assert read(session, id).error_type == "PoisonPillError", processes.output()
        *_, beside_others, alone = attempts_of(session, id)  # some were beside another that crashed first
        assert "died: SIGSEGV, by this job" in beside_others.error_message
        assert "interrupted 2 times in a row" in alone.error_message
        assert "died: SIGSEGV, and only this job ran" in alone.error_message
    for id in innocent:
        record = read(session, id)
        assert (record.interruptions, record.suspicion, record.attempt) == (0, 0, 1)
        told = attempts_of(session, id)
        assert told
        assert {attempt.outcome for attempt in told} == {AttemptOutcome.INTERRUPTED}
        assert all(any(f"by test.segfault {id}" in attempt.error_message for id in crashing) for attempt in told)
    assert "Fatal Python error: Segmentation fault" in processes.output()
    assert "in segfault" in processes.output()


@on_sqlite
def test_a_job_that_freezes_a_single_worker_is_named_and_what_waited_is_done(session, processes, tmp_path):
    beside = asked(session, "test.wait", file=str(tmp_path / "go"))
    worker = processes.worker(WORKER_FROZEN_SECONDS="2", WORKER_THREADS="3", **TWICE)
    wait_until(state_is(session, beside, JobState.RUNNING), seconds=60)
    freezing = asked(session, "test.freeze", how="computes")
    wait_until(state_is(session, freezing, JobState.RUNNING), seconds=30)
    waiting = [enqueue("test.greet", ticket_id=n) for n in range(100)]
    session.commit()
    wait_until(are(session, waiting, JobState.COMPLETED), seconds=60)
    wait_until(state_is(session, freezing, JobState.FAILED), seconds=60)
    (tmp_path / "go").touch()
    wait_until(state_is(session, beside, JobState.COMPLETED), seconds=30)

    first, last = attempts_of(session, freezing)
    assert "was frozen: a job held its interpreter for" in first.error_message, processes.output()
    assert first.error_message.endswith(", by this job")
    assert last.error_message.endswith(", and only this job ran")
    (told,) = attempts_of(session, beside)
    assert told.error_message.endswith(f", by test.freeze {freezing}")
    assert read(session, beside).interruptions == 0
    assert "in freeze" in processes.output()  # where it hung
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0


@on_sqlite
def test_a_job_that_freezes_its_worker_without_computing_is_proven_alone(session, processes):
    soon = {"HEARTBEAT_SECONDS": "0.5", "RESCUE_AFTER_SECONDS": "3"}
    processes.scheduler(**soon)  # the rescuer does not come first: the parent sends heartbeats
    id = asked(session, "test.freeze", how="waits")
    processes.worker(WORKER_FROZEN_SECONDS="7", MAX_INTERRUPTIONS="1", **soon)
    wait_until(state_is(session, id, JobState.FAILED), seconds=60)
    (told,) = attempts_of(session, id)
    assert "was frozen" in told.error_message, processes.output()
    assert "interrupted 1 times in a row" in told.error_message
    assert told.error_message.endswith(", and only this job ran"), processes.output()


@on_sqlite
def test_a_worker_that_is_stopped_by_a_signal_is_not_taken_for_frozen(session, processes):
    worker = processes.worker(WORKER_FROZEN_SECONDS="2")
    first = asked(session, "test.long_nap", seconds=0)
    wait_until(state_is(session, first, JobState.COMPLETED), seconds=60)
    (child,) = children_of(worker.pid)
    os.kill(child, signal.SIGSTOP)
    time.sleep(3.5)  # for longer than a frozen one gets
    os.kill(child, signal.SIGCONT)
    second = asked(session, "test.long_nap", seconds=0)
    wait_until(state_is(session, second, JobState.COMPLETED), seconds=30)
    assert read(session, second).result == {"pid": child}, processes.output()


@on_sqlite
def test_burst_also_ends_what_its_crashed_worker_left(session, processes):
    crashing = enqueue("test.segfault")
    others = [enqueue("test.long_nap", seconds=1) for _ in range(3)]
    session.commit()
    assert processes.worker("--burst", **TWICE).wait(60) == 0
    assert read(session, crashing).state is JobState.FAILED, processes.output()
    assert are(session, others, JobState.COMPLETED)()


@on_sqlite
def test_the_parent_of_a_killed_heavy_worker_gives_its_job_back_at_once_and_starts_another(session, processes):
    parent = processes.worker("--heavy")
    id = asked(session, "test.heavy_linger")
    wait_until(state_is(session, id, JobState.RUNNING), seconds=60)
    (worker,) = children_of(parent.pid)
    os.kill(worker, signal.SIGKILL)
    wait_until(state_is(session, id, JobState.COMPLETED), seconds=60)  # no scheduler runs here
    (told,) = attempts_of(session, id)
    assert f"process {worker}) died: SIGKILL" in told.error_message, processes.output()
    assert has_ended(worker)


@on_sqlite
def test_without_a_parent_a_suspected_job_runs_alone_until_its_end(app, session, work):
    app.config |= {"WORKER_THREADS": 2, "WORKER_BATCH": 2}
    spans: dict[int, tuple[float, float]] = {}

    def act(session, ticket_id: int) -> None:
        began_at = time.monotonic()
        time.sleep(0.1 if ticket_id else 1.0)
        spans[ticket_id] = (began_at, time.monotonic())

    behaviour["act"] = act
    suspect, *_ = [enqueue("test.act", ticket_id=n) for n in range(5)]
    session.execute(sa.update(JobRecord).where(JobRecord.id == suspect).values(suspicion=2))
    session.commit()
    work()
    assert count(session, JobRecord, JobRecord.state == JobState.COMPLETED) == 5
    began_at, ended_at = spans.pop(0)
    assert [n for n, (begin, end) in spans.items() if begin < ended_at and end > began_at] == []
    assert read(session, suspect).suspicion == 0
