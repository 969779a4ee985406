"""Long work of the scheduler continues page by page, and does not delay what is due."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module

import pytest
import sqlalchemy as sa

from flask_belfry.core.clock import utc_now
from flask_belfry.outbox import JobRecord, JobRequest, JobState, enqueue, enqueue_many, publisher
from flask_belfry.outbox.backlog import BACKLOG_KEY
from flask_belfry.scheduler.scheduler import MEMORY_KEY, BelfryScheduler
from tests.clocks import QUEUE, TICK, TIMERS, jobs_of_schedule, one_pass, scheduler


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flask_belfry.scheduler.delayed.PAGE_SIZE", 2)
    monkeypatch.setattr("flask_belfry.scheduler.scheduler.PAGE_SIZE", 2)
    monkeypatch.setattr(import_module("flask_belfry.outbox.relay"), "PAGE_RECORDS", 2)


def ask_for_five(session, in_seconds: float) -> list[str]:
    """Five jobs scheduled for the same time."""
    moment = utc_now() + timedelta(seconds=in_seconds)
    ids = enqueue_many("test.act", [JobRequest(scheduled_at=moment) for _ in range(5)])
    session.commit()
    return ids


def go_on(ours: BelfryScheduler) -> None:
    """Make passes until there is nothing more to do."""
    while ours.work_once():
        pass


def timers(broker) -> set[str]:
    return {member.decode() for member in broker.zrange(TIMERS, 0, -1)}


def queue(broker) -> list[str]:
    return [id.decode() for id in broker.lrange(QUEUE, 0, -1)]


def test_ticks_do_not_wait_behind_timers_and_pages_follow_each_other_at_once(app, session, clock, broker):
    ours = scheduler(app)
    one_pass(ours)
    ids = ask_for_five(session, in_seconds=1)
    clock.shift(60)
    assert ours.enqueue_jobs()
    assert len(jobs_of_schedule(session)) == 1
    session.rollback()
    assert len(timers(broker)) == 4
    go_on(ours)
    assert set(queue(broker)) >= set(ids)
    assert timers(broker) == {TICK}


def test_all_timers_are_rebuilt_after_a_loss_while_what_is_due_goes_on(app, session, clock, broker):
    ours = scheduler(app)
    due = enqueue("test.act", delay=1)
    ids = ask_for_five(session, in_seconds=3 * 86_400)
    broker.flushall()
    clock.shift(2)
    assert ours.work_once()
    assert queue(broker) == [due]
    assert not broker.exists(MEMORY_KEY)
    go_on(ours)
    assert timers(broker) == {*ids, TICK}
    assert broker.exists(MEMORY_KEY)


def test_a_redis_that_is_wiped_while_it_is_rebuilt_is_rebuilt_again(app, session, clock, broker):
    ours = scheduler(app)
    ids = ask_for_five(session, in_seconds=3 * 86_400)
    assert ours.acquire_lock()
    broker.delete(MEMORY_KEY)
    pages = ours._restore_delayed()
    next(pages)
    broker.flushall()
    for _ in pages:
        pass
    assert not broker.exists(MEMORY_KEY)
    go_on(ours)
    assert timers(broker) == {*ids, TICK}


def test_the_relay_goes_on_page_by_page_and_pushes_what_the_queue_can_hold(app, session, clock, broker):
    ours = scheduler(app)
    ids = [enqueue("test.act") for _ in range(5)]
    session.execute(sa.update(JobRecord).values(state=JobState.QUEUED, enqueued_at=utc_now()))
    session.commit()
    broker.flushall()
    publisher(app).queues.bound = 4
    clock.shift(20)
    pending = sa.select(sa.func.count()).where(JobRecord.state == JobState.PENDING)
    for expected in (2, 4):
        assert ours.work_once()
        assert session.scalar(pending) == expected
        session.rollback()
    go_on(ours)
    assert len(queue(broker)) == 4
    assert set(queue(broker)) < set(ids)
    assert broker.sismember(BACKLOG_KEY, "default")
