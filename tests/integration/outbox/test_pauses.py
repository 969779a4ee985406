"""Pauses of queues, job names and limit keys: what they stop, how they end, and that they outlive Redis and workers."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from flask_belfry.core.clock import utc_now
from flask_belfry.execution import claim
from flask_belfry.operations.queues import kind_of
from flask_belfry.outbox import JobArgumentError, JobRecord, JobState, enqueue, job
from flask_belfry.outbox.models import BlockedBy, JobPause, PauseKind
from flask_belfry.outbox.pauses import active_pauses, pause, resume
from flask_belfry.outbox.registry import forget
from tests.clocks import one_pass, scheduler
from tests.job_records import asked, count, read, state_of
from tests.servers import wait_until

MINUTE = timedelta(minutes=1)
KINDS = [(PauseKind.QUEUE, "default"), (PauseKind.JOB, "test.limited"), (PauseKind.LIMIT, "test/k")]


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_a_paused_job_is_blocked_at_its_claim_and_resuming_publishes_it(session, broker, kind, name):
    id, other = asked(session, "test.limited", key="k"), asked(session, "test.nap", seconds=0)
    pause(session, kind, name, reason="the server is moved")
    session.commit()
    broker.flushall()
    assert [item.id for item in claim.claim(session, [id, other], "w")] == [other]
    assert (read(session, id).state, read(session, id).blocked_by) == (JobState.BLOCKED, BlockedBy.PAUSE)
    assert resume(session, kind, name)
    session.commit()
    assert broker.lrange("rq:queue:default", 0, -1) == [id.encode()]
    assert [item.id for item in claim.claim(session, [id], "w")] == [id]
    assert not resume(session, kind, name)


def test_what_another_pause_stops_too_stays_blocked(session):
    id = asked(session, "test.limited", key="k")
    for kind, name in KINDS:
        pause(session, kind, name)
    session.commit()
    claim.claim(session, [id], "w")
    for kind, name in KINDS:
        assert state_of(session, id) is JobState.BLOCKED
        resume(session, kind, name)
        session.commit()
    assert state_of(session, id) is JobState.PENDING


def test_a_pause_with_an_end_ends_by_itself(app, session, clock):
    ids = [asked(session, "test.act") for _ in range(3)]
    pause(session, PauseKind.QUEUE, "default", duration=MINUTE)
    session.commit()
    claim.claim(session, ids, "w")
    leader = scheduler(app)
    one_pass(leader)
    assert {state_of(session, id) for id in ids} == {JobState.BLOCKED}
    clock.shift(61)
    assert active_pauses(session) == []
    one_pass(leader)
    assert {state_of(session, id) for id in ids} == {JobState.PENDING}
    assert count(session, JobPause) == 1  # for the claims that still saw it
    clock.shift(61)
    one_pass(leader)
    assert count(session, JobPause) == 0


def test_the_jobs_that_a_frozen_claim_blocked_after_the_end_of_a_pause_are_released(app, session):
    kept, late = enqueue("test.act"), enqueue("test.echo")
    pause(session, PauseKind.JOB, "test.act")
    session.commit()
    # What a claim commits that read the pauses before they ended, and was frozen until they were deleted.
    blocked = {"state": JobState.BLOCKED, "blocked_by": BlockedBy.PAUSE}
    session.execute(sa.update(JobRecord).values(blocked))
    session.commit()
    one_pass(scheduler(app))
    assert (state_of(session, kept), state_of(session, late)) == (JobState.BLOCKED, JobState.PENDING)


def test_pausing_again_replaces_the_reason_and_the_end(session):
    pause(session, PauseKind.QUEUE, "mail", reason="first", duration=MINUTE)
    pause(session, PauseKind.QUEUE, "mail", reason="second")
    session.commit()
    (found,) = active_pauses(session)
    assert (found.name, found.reason, found.ends_at) == ("mail", "second", None)


@pytest.mark.parametrize(
    ("kind", "name", "options", "field"),
    [
        (PauseKind.QUEUE, "post", {}, "name"),
        (PauseKind.JOB, "test.unknown", {}, "name"),
        (PauseKind.JOB, "\0", {}, "name"),
        (PauseKind.LIMIT, "", {}, "name"),
        (PauseKind.LIMIT, "x" * 201, {}, "name"),
        (PauseKind.QUEUE, "mail", {"reason": "x" * 201}, "reason"),
        (PauseKind.QUEUE, "mail", {"duration": timedelta(0)}, "ends_at"),
        (PauseKind.QUEUE, "mail", {"duration": timedelta(days=3_000_000)}, "ends_at"),
    ],
)
def test_an_invalid_pause_is_refused(session, kind, name, options, field):
    with pytest.raises(JobArgumentError) as caught:
        pause(session, kind, name, **options)
    assert list(caught.value.fields) == [field]


def test_a_job_that_only_another_version_of_the_code_knows_can_be_paused(session):
    job("test.of_another_version")(lambda session: None)
    try:
        id = asked(session, "test.of_another_version")
    finally:
        forget("test.of_another_version")
    assert kind_of("test.of_another_version") is PauseKind.JOB
    pause(session, PauseKind.JOB, "test.of_another_version")
    session.commit()
    assert claim.claim(session, [id], "w") == []
    assert read(session, id).blocked_by is BlockedBy.PAUSE


def test_a_paused_queue_is_not_popped_and_outlives_redis_and_its_workers(session, broker, processes):
    pause(session, PauseKind.QUEUE, "default")
    session.commit()
    soon = {"HEARTBEAT_SECONDS": "0.5", "RELAY_SECONDS": "0.5", "RELAY_GRACE_SECONDS": "1", "RESCUE_AFTER_SECONDS": "2"}
    processes.scheduler(**soon)
    worker = processes.worker(**soon)
    paused = asked(session, "test.long_nap", seconds=0)
    other = asked(session, "test.nap", seconds=0)
    wait_until(lambda: state_of(session, other) is JobState.COMPLETED, seconds=30)
    broker.flushall()
    worker.kill()
    worker.wait(10)
    processes.worker(**soon)
    again = asked(session, "test.nap", seconds=0)
    wait_until(lambda: state_of(session, again) is JobState.COMPLETED, seconds=30)
    # The relay has pushed it again, and no worker pops it.
    wait_until(lambda: paused.encode() in broker.lrange("rq:queue:default", 0, -1), seconds=30)
    assert read(session, paused).claims == 0
    resume(session, PauseKind.QUEUE, "default")
    session.commit()
    wait_until(lambda: state_of(session, paused) is JobState.COMPLETED, seconds=30)


def test_a_worker_without_pauses_needs_no_query_for_a_fetch(session, work, statements):
    id = asked(session, "test.greet", ticket_id=1)
    statements.clear()
    work()
    assert state_of(session, id) is JobState.COMPLETED
    # Its heartbeat has an engine of its own.
    assert not any(text.startswith("SELECT job_pauses") for text in statements)


def test_a_worker_ends_its_burst_when_all_its_queues_are_paused(session, work):
    for queue in ("mail", "default", "bulk"):
        pause(session, PauseKind.QUEUE, queue)
    session.commit()
    id = asked(session, "test.act")
    work()
    assert state_of(session, id) is JobState.PENDING


def test_expired_jobs_are_cancelled_at_their_claim_and_by_the_scheduler(app, session, clock):
    claimed, swept, retried = (enqueue("test.act", expires_at=utc_now() + MINUTE) for _ in range(3))
    session.commit()
    clock.shift(59)
    assert [item.id for item in claim.claim(session, [retried], "w")] == [retried]
    clock.shift(2)
    assert claim.claim(session, [claimed], "w") == []
    one_pass(scheduler(app))
    for id in (claimed, swept):
        record = read(session, id)
        assert (record.state, record.error_type) == (JobState.CANCELLED, "JobExpiredError")
        assert record.error_message.startswith("not started before 20")
        assert record.finished_at == utc_now()
    assert state_of(session, retried) is JobState.RUNNING
