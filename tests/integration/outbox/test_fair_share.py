"""Fair share: one school's many jobs do not delay another's one, and nothing of a backlog is lost or run twice."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count as count_from
from typing import Any

import pytest
import sqlalchemy as sa
import time_machine
from sqlalchemy.orm import Session

from flask_belfry.changes import for_school
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.execution import attempts, current_job
from flask_belfry.execution import claim as claims
from flask_belfry.outbox import JobRecord, JobRequest, JobState, control, enqueue_many, publisher
from flask_belfry.outbox.backlog import BACKLOG_KEY, HEAVY_BOUND, Choice, FairChoice
from flask_belfry.outbox.models import QUARANTINE, PauseKind
from flask_belfry.outbox.pauses import pause, resume
from flask_belfry.outbox.publisher import Publisher
from flask_belfry.outbox.relay import relay
from flask_belfry.workers.threaded import ThreadedWorker
from tests.clocks import TICK, TIMERS, scheduler
from tests.domain import Ticket, behaviour
from tests.forks import exit_status, fork, run_with_fault
from tests.job_records import count
from tests.processes import kill_group
from tests.servers import wait_until

QUEUE = "rq:queue:default"
BATCH = 20
A, B = 1, 2
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(settings):
    return settings | {"WORKER_BATCH": str(BATCH), "WORKER_THREADS": "1"}


@pytest.fixture
def ran(app) -> list[tuple[int | None, str]]:
    """The school and the queue of each job, in the order in which they begin."""
    seen: list[tuple[int | None, str]] = []

    def act(session: Session, ticket_id: int) -> None:
        claim = current_job().claim
        seen.append((claim.school_id, claim.queue))

    behaviour["act"] = act
    return seen


def enqueue_for(
    session: Session, school_id: int | None, count: int = 1, name: str = "test.act", **options: Any
) -> list[str]:
    """Enqueue jobs of a school in one commit."""
    with for_school(school_id):
        ids = enqueue_many(name, [JobRequest(**options) for _ in range(count)])
        session.commit()
    return ids


def work_on(valkey, jobs: int) -> None:
    """Run a real worker in this process until it has started so many jobs."""
    db.session.rollback()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ThreadedWorker(["mail", "default", "bulk"], connection=valkey.client()).work(burst=True, max_jobs=jobs)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def states(session: Session) -> Counter[JobState]:
    found = Counter(session.scalars(sa.select(JobRecord.state)))
    session.rollback()
    return found


def schools_of(session: Session, ids: Sequence[str]) -> list[int | None]:
    found = {row.id: row.school_id for row in session.execute(sa.select(JobRecord.id, JobRecord.school_id))}
    session.rollback()
    return [found[id] for id in ids]


def test_one_job_does_not_wait_for_ten_thousand_of_another_school(session, broker, valkey, ran):
    enqueue_for(session, A, 10_000)
    enqueue_for(session, B)
    assert broker.llen(QUEUE) == BATCH
    work_on(valkey, 3 * BATCH)
    assert [school for school, _ in ran].index(B) <= 2 * BATCH


def test_nor_for_those_of_many_small_commits(session, broker, valkey, ran):
    for _ in range(10 * BATCH):
        enqueue_for(session, A)
    enqueue_for(session, B)
    assert broker.llen(QUEUE) == BATCH
    work_on(valkey, 3 * BATCH)
    assert [school for school, _ in ran].index(B) <= 2 * BATCH


def test_nor_for_those_that_are_due_at_the_same_second(app, session, broker, valkey, ran):
    enqueue_for(session, A, 10 * BATCH, scheduled_at=utc_now() + timedelta(seconds=5))
    with time_machine.travel(utc_now() + timedelta(seconds=6)):
        ours = scheduler(app)
        ours.enqueue_jobs()
        assert broker.llen(QUEUE) == BATCH
        assert states(session) == {JobState.PENDING: 10 * BATCH}
        assert broker.zrange(TIMERS, 0, -1) == [TICK.encode()]
        enqueue_for(session, B)
        work_on(valkey, 3 * BATCH)
    assert [school for school, _ in ran].index(B) <= 2 * BATCH


def test_jobs_go_on_until_the_backlog_is_empty_and_are_then_published_again(session, broker, work, ran):
    enqueue_for(session, A, 10 * BATCH)
    work()
    assert states(session) == {JobState.COMPLETED: 10 * BATCH}
    assert not broker.exists(BACKLOG_KEY, QUEUE)
    (id,) = enqueue_for(session, A)  # this process has learned of a backlog a moment ago
    assert broker.lrange(QUEUE, 0, -1) == [id.encode()]
    assert not broker.exists(BACKLOG_KEY)


def test_a_backlog_that_began_again_behind_a_full_queue_is_marked(session, broker):
    """This process knows of a backlog that has ended, and another one has filled the queue since."""
    enqueue_for(session, A, 2 * BATCH)
    broker.delete(BACKLOG_KEY)
    enqueue_for(session, B)
    assert broker.llen(QUEUE) == BATCH
    assert broker.smembers(BACKLOG_KEY) == {b"default"}


def test_nothing_passes_a_backlog_through_the_queue_that_workers_have_emptied(session, broker):
    enqueue_for(session, A, 10 * BATCH)
    broker.delete(QUEUE)
    for _ in range(3):
        enqueue_for(session, B)
    assert broker.llen(QUEUE) == 0


def test_a_worker_that_finds_jobs_after_it_removed_the_mark_sets_it_again(session, broker, valkey):
    enqueue_for(session, A, 10 * BATCH)
    broker.delete(QUEUE)
    worker = ThreadedWorker(["default"], connection=valkey.client())
    worker._backlogs._ending = {"default"}
    fetched = worker._fetch({QUEUE: BATCH}, block=False)
    assert not broker.exists(BACKLOG_KEY)
    assert len(worker._claim(fetched)) == BATCH
    assert broker.smembers(BACKLOG_KEY) == {b"default"}


def test_a_job_that_is_enqueued_while_a_worker_finds_no_more_is_published(session, broker, valkey, monkeypatch):
    enqueue_for(session, A, 2 * BATCH)  # this process knows of a backlog
    claims.claim(session, list(session.scalars(sa.select(JobRecord.id))), "w")
    broker.delete(QUEUE)
    worker = ThreadedWorker(["default"], connection=valkey.client())
    assert worker._claim(worker._fetch({QUEUE: BATCH}, block=False)) == []
    choose = FairChoice.choose

    def choose_and_enqueue(self: FairChoice, session: Session, *args: Any, **options: Any) -> Choice:
        choice = choose(self, session, *args, **options)
        enqueue_for(session, B)
        return choice

    monkeypatch.setattr(FairChoice, "choose", choose_and_enqueue)
    assert worker._claim(worker._fetch({QUEUE: BATCH}, block=False)) == []
    assert broker.llen(QUEUE) == 1
    assert not broker.exists(BACKLOG_KEY)


def test_a_worker_whose_backlog_has_ended_elsewhere_keeps_the_mark_of_the_next_one(session, broker, valkey):
    worker = ThreadedWorker(["default"], connection=valkey.client())
    worker._backlogs._ending = {"default"}
    assert not worker._fetch({QUEUE: BATCH}, block=False)
    enqueue_for(session, A, 10 * BATCH)
    broker.delete(QUEUE)
    assert worker._fetch({QUEUE: BATCH}, block=False)
    assert broker.exists(BACKLOG_KEY)


def test_urgent_jobs_pass_ten_thousand_that_wait(session, valkey, ran):
    enqueue_for(session, A, 10_000, queue="bulk")
    enqueue_for(session, A, 3, queue="mail")
    work_on(valkey, 2 * BATCH)
    assert [queue for _, queue in ran[:4]] == ["mail", "mail", "mail", "bulk"]


def test_an_urgent_job_passes_a_backlog_that_a_worker_has_begun(session, valkey, ran):
    enqueue_for(session, A, 10 * BATCH, queue="bulk")
    note = behaviour["act"]

    def act(session: Session, ticket_id: int) -> None:
        note(session, ticket_id)
        if len(ran) == 2 * BATCH:
            enqueue_many("test.act", [JobRequest(queue="mail")])

    behaviour["act"] = act
    work_on(valkey, 5 * BATCH)
    assert [queue for _, queue in ran].index("mail") <= 3 * BATCH  # the worker had prefetched at most a batch


def test_the_backlog_of_an_urgent_queue_passes_the_others(session, valkey, ran):
    enqueue_for(session, A, 10 * BATCH, queue="bulk")
    enqueue_for(session, A, 3 * BATCH, queue="mail")
    work_on(valkey, 7 * BATCH)
    # While all mails that a worker may prefetch await the commit of their completion, it prefetches others: how many
    # depends on the database.
    assert [queue for _, queue in ran[: 7 * BATCH]].count("mail") == 3 * BATCH


def test_a_heavy_queue_holds_fewer_ids(session, broker):
    enqueue_for(session, A, BATCH, queue="heavy")
    (id,) = enqueue_for(session, B, queue="heavy")
    assert broker.llen("rq:queue:heavy") == HEAVY_BOUND
    choice = FairChoice()
    chosen = [choice.choose(session, "heavy", 1).ids[0] for _ in range(2)]
    session.rollback()
    assert id in chosen


def test_what_is_released_goes_first_however_long_the_queue_is(session, broker):
    (id,) = enqueue_for(session, A)
    (claim,) = claims.claim(session, [id], "w")
    broker.flushall()
    enqueue_for(session, A, 10 * BATCH)
    attempts.release(session, claim)
    session.commit()
    assert broker.lindex(QUEUE, 0) == id.encode()


def test_what_is_retried_by_hand_goes_before_the_backlog_of_its_school(session, broker, valkey):
    (id,) = enqueue_for(session, A)
    control.cancel([id])
    broker.delete(QUEUE)
    enqueue_for(session, A, 10 * BATCH)
    control.retry([id])
    session.commit()
    assert id.encode() not in broker.lrange(QUEUE, 0, -1)
    broker.delete(QUEUE)
    assert id in FairChoice().choose(session, "default", BATCH).ids


def test_schools_take_turns_and_the_one_with_the_fewest_begins(session):
    enqueue_for(session, A, 10)
    enqueue_for(session, None, 10)
    enqueue_for(session, B, 2)
    choice = FairChoice().choose(session, "default", 6)
    session.rollback()
    assert Counter(schools_of(session, choice.ids)) == {A: 2, B: 2, None: 2}
    assert Counter(schools_of(session, choice.ids[:3])) == {A: 1, B: 1, None: 1}
    choice = FairChoice().choose(session, "default", 12)
    session.rollback()
    assert schools_of(session, choice.ids[:3])[0] == B
    assert choice.has_more
    assert not FairChoice().choose(session, "default", 100).has_more
    assert FairChoice().choose(session, "bulk", 100) == ([], False)
    session.rollback()


def test_more_schools_than_jobs_to_choose_have_their_turns_one_after_the_other(session):
    for school_id in (None, 1, 2, 3, 4):
        enqueue_for(session, school_id, 2)
    choice, chosen = FairChoice(), []
    for _ in range(5):
        chosen += schools_of(session, choice.choose(session, "default", 2).ids)
        session.rollback()
    assert Counter(chosen) == dict.fromkeys([None, 1, 2, 3, 4], 2)


def test_a_quarantined_job_is_never_claimed_among_others(session, broker):
    enqueue_for(session, A)
    session.execute(sa.update(JobRecord).values(suspicion=QUARANTINE))
    session.commit()
    assert FairChoice().choose(session, "default", 10).ids == []
    session.rollback()


def test_a_quarantined_job_that_redis_has_lost_is_pushed_by_the_relay(app, session, broker):
    enqueue_for(session, A, 5 * BATCH)
    (id,) = enqueue_for(session, A)
    session.execute(sa.update(JobRecord).where(JobRecord.id == id).values(suspicion=QUARANTINE, created_at=LONG_AGO))
    session.commit()
    broker.flushall()
    with time_machine.travel(utc_now() + timedelta(seconds=5)):
        relay(publisher(app))
    assert broker.lindex(QUEUE, 0) == id.encode()


def test_workers_leave_the_backlog_of_a_paused_queue(session, broker, valkey, ran):
    enqueue_for(session, A, 3 * BATCH)
    enqueue_for(session, A, BATCH, queue="bulk")
    pause(session, PauseKind.QUEUE, "default")
    session.commit()
    work_on(valkey, 10 * BATCH)
    assert Counter(queue for _, queue in ran) == {"bulk": BATCH}
    assert broker.llen(QUEUE) == BATCH
    assert states(session) == {JobState.PENDING: 3 * BATCH, JobState.COMPLETED: BATCH}
    resume(session, PauseKind.QUEUE, "default")
    session.commit()
    work_on(valkey, 10 * BATCH)
    assert states(session) == {JobState.COMPLETED: 4 * BATCH}


def test_a_worker_that_did_not_know_of_a_pause_blocks_one_batch_of_the_backlog(session, broker, valkey):
    enqueue_for(session, A, 10 * BATCH)
    broker.delete(QUEUE)
    worker = ThreadedWorker(["default"], connection=valkey.client())
    with worker._app.app_context():
        worker._read_pauses()
    pause(session, PauseKind.QUEUE, "default")
    session.commit()
    assert worker._claim(worker._fetch(worker._capacity(), block=False)) == []
    assert worker._capacity() == {}
    assert set(states(session)) == {JobState.BLOCKED, JobState.PENDING}
    assert states(session)[JobState.BLOCKED] <= BATCH


def test_paused_limited_and_expired_jobs_of_a_backlog_delay_no_other_school(session, broker, valkey, ran):
    enqueue_for(session, A, 3 * BATCH, name="test.echo")
    enqueue_for(session, A, 3 * BATCH, name="test.limited", args={"key": "k"})
    enqueue_for(session, A, 3 * BATCH, expires_at=utc_now() + timedelta(seconds=5))
    pause(session, PauseKind.JOB, "test.echo")
    session.commit()
    with time_machine.travel(utc_now() + timedelta(seconds=6)):
        enqueue_for(session, B)
        work_on(valkey, 10 * BATCH)
    assert [school for school, _ in ran] == [B]
    found = Counter(tuple(row) for row in session.execute(sa.select(JobRecord.name, JobRecord.state)))
    assert found == {
        ("test.echo", JobState.BLOCKED): 3 * BATCH,
        ("test.limited", JobState.COMPLETED): 3 * BATCH,
        ("test.act", JobState.CANCELLED): 3 * BATCH,
        ("test.act", JobState.COMPLETED): 1,
    }
    assert not broker.exists(BACKLOG_KEY)


def test_many_jobs_that_a_resumed_pause_or_a_predecessor_releases_join_the_backlog(session, broker, work, ran):
    pause(session, PauseKind.JOB, "test.act")
    session.commit()
    ids = enqueue_for(session, A, 3 * BATCH)
    claims.claim(session, ids, "w")
    (first,) = enqueue_for(session, A, name="test.echo")
    enqueue_for(session, A, 3 * BATCH, after=first)
    broker.flushall()
    resume(session, PauseKind.JOB, "test.act")
    session.commit()
    assert broker.llen(QUEUE) == BATCH
    with time_machine.travel(utc_now() + timedelta(seconds=5)):
        relay(publisher())
        work()
    assert states(session) == {JobState.COMPLETED: 6 * BATCH + 1}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_two_workers_choose_different_jobs_at_the_same_moment(app, session):
    """SQLite has one lock, which the first choice holds until its claims are committed."""
    enqueue_for(session, A, 10)
    one, other = Session(db.engine), Session(db.engine)
    chosen = [FairChoice().choose(each, "default", 5).ids for each in (one, other)]
    assert len({*chosen[0], *chosen[1]}) == 10
    one.close(), other.close()


def test_the_relay_marks_a_backlog_of_which_redis_has_lost_the_mark(app, session, broker, work, ran):
    ids = enqueue_for(session, A, 5 * BATCH)
    broker.flushall()
    assert relay(publisher(app)).pushed == 0  # their process may be about to publish them
    with time_machine.travel(utc_now() + timedelta(seconds=5)):
        assert relay(publisher(app)).pushed == BATCH
        assert relay(publisher(app)).pushed == 0
    assert broker.smembers(BACKLOG_KEY) == {b"default"}
    assert states(session) == {JobState.PENDING: 4 * BATCH, JobState.QUEUED: BATCH}
    work()
    assert states(session) == {JobState.COMPLETED: len(ids)}
    assert len(ran) == len(ids)


def test_the_relay_finds_the_backlog_of_a_process_that_was_killed_before_it_marked_it(app, session, broker, work, ran):
    def enqueue_and_die() -> None:
        Publisher.mark_backlog = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # pyright: ignore
        enqueue_for(session, A, 3 * BATCH)

    session.rollback()
    db.engine.dispose()
    assert exit_status(fork(enqueue_and_die)) == -signal.SIGKILL
    assert states(session) == {JobState.PENDING: 3 * BATCH}
    assert (broker.llen(QUEUE), broker.exists(BACKLOG_KEY)) == (BATCH, 0)
    with time_machine.travel(utc_now() + timedelta(seconds=5)):
        relay(publisher(app))
        assert broker.smembers(BACKLOG_KEY) == {b"default"}
        work()
    assert states(session) == {JobState.COMPLETED: 3 * BATCH}


def test_the_relay_pushes_the_jobs_of_each_school(app, session, broker):
    enqueue_for(session, A, 5 * BATCH)
    (id,) = enqueue_for(session, B)
    broker.flushall()
    with time_machine.travel(utc_now() + timedelta(seconds=5)):
        relay(publisher(app))
    assert broker.lindex(QUEUE, 0) == id.encode()


def test_what_was_queued_and_lost_joins_the_backlog_of_its_queue(app, session, broker):
    lost = enqueue_for(session, A, 3)
    session.execute(sa.update(JobRecord).values(state=JobState.QUEUED, enqueued_at=utc_now()))
    session.commit()
    broker.flushall()
    enqueue_for(session, A, BATCH)  # they fill the queue
    with time_machine.travel(utc_now() + timedelta(seconds=15)):
        assert relay(publisher(app)).pushed == 0
    assert broker.llen(QUEUE) == BATCH
    assert broker.smembers(BACKLOG_KEY) == {b"default"}
    assert set(FairChoice().choose(session, "default", BATCH).ids) == set(lost)


def test_a_worker_that_is_killed_at_any_step_of_a_top_up_loses_and_repeats_nothing(app, session, broker, valkey):
    """The jobs of a first worker are in flight when it is killed, and run again; all others run once."""

    def act(session: Session, ticket_id: int) -> None:
        session.connection().execute(sa.insert(Ticket.__table__).values(title=current_job().claim.id))

    behaviour["act"] = act

    def top_up() -> None:
        worker = ThreadedWorker(["default"], connection=valkey.client())
        capacity = {worker.queues[0].key: BATCH}
        for _ in range(4):
            worker._claim(worker._fetch(capacity, block=False))

    for number in count_from(1):
        session.execute(sa.delete(JobRecord))
        session.execute(sa.delete(Ticket))
        session.commit()
        broker.flushall()
        ids = enqueue_for(session, A, 3 * BATCH)
        steps = run_with_fault(db.engine, number, kills=True, function=top_up)
        for claim in claims.claims_of(session, JobRecord.state == JobState.RUNNING):
            attempts.interrupt(session, claim, "killed", attempts.Part.NONE)
        session.commit()
        with time_machine.travel(utc_now() + timedelta(seconds=5)):
            relay(publisher(app))
        work_on(valkey, 10 * BATCH)
        assert states(session) == {JobState.COMPLETED: len(ids)}, (number, steps[-1])
        assert count(session, Ticket) == len(ids)
        if len(steps) < number:
            break
    assert number > 8


def test_a_wiped_redis_and_killed_workers_lose_nothing_and_repeat_nothing(app, session, broker, processes):
    soon = {"HEARTBEAT_SECONDS": "0.5", "RESCUE_AFTER_SECONDS": "2", "RELAY_SECONDS": "0.5", "WORKER_THREADS": "4"}
    processes.scheduler(**soon)
    with for_school(A):
        enqueue_many("test.nap", [JobRequest({"seconds": 0.005}) for _ in range(50 * BATCH)])
        session.commit()
    finished = sa.and_(JobRecord.name == "test.nap", JobRecord.state == JobState.COMPLETED)
    for part in (1, 2, 3):
        workers = [processes.worker(**soon), processes.worker(**soon)]
        wait_until(lambda part=part: count(session, JobRecord, finished) >= part * 8 * BATCH, seconds=60)
        for worker in workers:
            kill_group(worker, signal.SIGKILL)
        broker.flushall()
    processes.worker(**soon)
    wait_until(lambda: count(session, JobRecord, finished) == 50 * BATCH, seconds=60)
    assert count(session, Ticket) == 50 * BATCH
