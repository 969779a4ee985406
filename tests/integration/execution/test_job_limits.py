"""Limits of running jobs and of starts per minute, with claims and commits that race, and workers that are killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta
from itertools import pairwise

import pytest
import sqlalchemy as sa

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.execution import attempts, claim, executor, limits
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.outbox import JobRecord, JobRequest, JobState, cancel, enqueue, enqueue_many
from flask_belfry.outbox.models import BlockedBy, JobLimit
from flask_belfry.outbox.registry import definition
from tests.clocks import one_pass, scheduler
from tests.job_records import read, state_of, waits_for_lock
from tests.processes import children_of, signal_tree
from tests.servers import wait_until

SOON = {"HEARTBEAT_SECONDS": "0.5", "RESCUE_AFTER_SECONDS": "2", "RELAY_SECONDS": "0.5", "MAX_INTERRUPTIONS": "100"}
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def asked(session, count: int, name: str = "test.limited", **args) -> list[str]:
    ids = enqueue_many(name, [JobRequest({"key": "k", **args})] * count)
    session.commit()
    return sorted(ids)  # those of one millisecond are in no order


def states(session) -> dict[str, int]:
    """Return how many limited jobs are in each state: a scheduler's periodic jobs may run beside them."""
    query = sa.select(JobRecord.state, sa.func.count()).where(JobRecord.limit_key.is_not(None))
    found = session.execute(query.group_by(JobRecord.state)).all()
    session.rollback()
    return {state.value: count for state, count in found}


def waiting_in_redis(broker) -> list[str]:
    return [id.decode() for id in broker.lrange("rq:queue:default", 0, -1)]


def test_what_finds_no_slot_is_blocked_and_released_oldest_first_by_the_commit_that_frees_one(session, broker):
    ids = asked(session, 7)
    broker.flushall()
    items = claim.claim(session, ids, "w")
    assert [item.id for item in items] == ids[:4]
    assert {read(session, id).blocked_by for id in ids[4:]} == {BlockedBy.LIMIT}
    claim.complete(session, [(items[0], None), (items[1], None)])
    session.rollback()
    assert states(session) == {"running": 4, "blocked": 3}
    claim.complete(session, [(items[0], None), (items[1], None)])
    session.commit()
    assert [state_of(session, id).value for id in ids[4:]] == ["pending", "pending", "blocked"]
    assert waiting_in_redis(broker) == ids[4:6]
    assert [item.id for item in claim.claim(session, ids, "w")] == ids[4:6]


@pytest.mark.parametrize("end", ["fail", "interrupt", "release"])
def test_every_end_of_a_claim_frees_its_slot(app, session, end):
    ids = asked(session, 5)
    items = claim.claim(session, ids, "w")
    if end == "fail":
        attempts.fail(session, items[0], ValueError("no"), definition("test.limited").policy())
    elif end == "interrupt":
        attempts.interrupt(session, items[0], "it crashed")
    else:
        attempts.release(session, items[0])
    session.commit()
    assert state_of(session, ids[4]) is JobState.PENDING


def test_a_chunk_frees_the_slots_of_all_it_answers(app, session):
    ids = asked(session, 8, "test.limited_chunk")
    executor.run(app, claim.claim(session, ids, "w"), no_limit)
    assert states(session) == {"completed": 4, "pending": 4}


def test_a_job_without_a_limit_costs_no_further_statement(session, statements):
    id = enqueue("test.act")
    session.commit()
    statements.clear()
    (item,) = claim.claim(session, [id], "w")
    claim.complete(session, [(item, None)])
    session.commit()
    assert len(statements) == 2


@on_postgresql
def test_two_claims_of_the_last_slot_wait_for_each_other_and_one_gets_it(app, session):
    first, second = asked(session, 5)[3:]
    claim.claim(session, asked(session, 3), "w")
    with db.engine.connect() as other:  # a claim that has counted, and has not committed
        other.execute(sa.update(JobLimit).values(next_start_at=None))
        other.execute(sa.update(JobRecord).where(JobRecord.id == first).values(state=JobState.RUNNING))
        claimed: list[list] = []

        def claim_second() -> None:
            with app.app_context():
                claimed.append(claim.claim(db.session(), [second], "another"))

        thread = threading.Thread(target=claim_second)
        thread.start()
        wait_until(lambda: waits_for_lock(session))
        other.commit()
        thread.join(10)
    assert claimed == [[]]
    assert state_of(session, second) is JobState.BLOCKED


@on_postgresql
def test_a_completion_waits_for_a_claim_that_is_about_to_block_and_releases_what_it_blocked(app, session):
    *running, late = asked(session, 5)
    items = claim.claim(session, running, "w")
    with db.engine.connect() as other:  # the claim of the last one: it has counted four
        other.execute(sa.update(JobLimit).values(next_start_at=None))

        def complete() -> None:
            with app.app_context():
                executor.complete(app, [(items[0], None)])

        thread = threading.Thread(target=complete)
        thread.start()
        wait_until(lambda: waits_for_lock(session))
        blocked = {"state": JobState.BLOCKED, "blocked_by": BlockedBy.LIMIT}
        other.execute(sa.update(JobRecord).where(JobRecord.id == late).values(blocked))
        other.commit()
        thread.join(10)
    assert state_of(session, late) is JobState.PENDING


def test_the_scheduler_releases_what_no_commit_has_released(app, session, monkeypatch):
    ids = asked(session, 6)
    items = claim.claim(session, ids, "w")
    claim.complete(session, [(items[0], None)])
    session.commit()
    cancel([ids[4]])  # released, and cancelled before its claim
    session.commit()
    leader = scheduler(app)
    one_pass(leader)
    assert state_of(session, ids[5]) is JobState.PENDING
    more = asked(session, 3)
    claim.claim(session, [ids[5], *more], "w")
    assert {state_of(session, id) for id in more} == {JobState.BLOCKED}
    monkeypatch.setattr(limits, "has_slot", lambda name, running: True)  # code without the limit
    one_pass(leader)
    assert JobState.BLOCKED not in {state_of(session, id) for id in more}


def test_the_rate_schedules_what_exceeds_it_without_an_attempt_and_counts_it_once(app, session, clock, broker):
    ids = asked(session, 3, "test.paced")
    now = utc_now()
    (first,) = claim.claim(session, ids, "w")
    later = [read(session, id) for id in ids[1:]]
    assert [(record.scheduled_at - now) / timedelta(seconds=0.1) for record in later] == [1, 2]
    assert {(record.state, record.attempt, record.claims) for record in later} == {(JobState.SCHEDULED, 0, 0)}
    assert broker.zscore("rq:scheduler:scheduled_jobs", ids[1]) == later[0].scheduled_at.timestamp()
    assert claim.claim(session, ids, "w") == []  # not due
    clock.shift(1)
    assert [item.id for item in claim.claim(session, ids, "w")] == ids[1:]
    assert read(session, ids[1]).rate_slot_at is None
    attempts.release(session, first)
    session.commit()
    assert [item.id for item in claim.claim(session, ids, "w")] == ids[:1]  # counted again, after an idle second


def test_a_job_that_starts_later_passes_its_slot_on(session, clock):
    ids = asked(session, 3, "test.paced_alone")
    (first,) = claim.claim(session, ids, "w")
    claim.complete(session, [(first, None)])
    session.commit()
    claim.claim(session, ids, "w")
    assert [state_of(session, id).value for id in ids[1:]] == ["scheduled", "pending"]


def test_the_rate_holds_over_two_worker_processes(session, processes, tmp_path):
    processes.scheduler(**SOON)
    processes.worker(**SOON)
    processes.worker(**SOON)
    file = tmp_path / "notes"
    file.touch()
    asked(session, 30, "test.paced", file=str(file))
    wait_until(lambda: states(session) == {"completed": 30}, seconds=60)
    query = (
        sa.select(JobRecord.scheduled_at).where(JobRecord.scheduled_at.is_not(None)).order_by(JobRecord.scheduled_at)
    )
    starts = list(session.scalars(query))
    assert len(starts) == 29
    assert min(later - earlier for earlier, later in pairwise(starts)) >= timedelta(seconds=0.1)
    assert len(file.read_text().splitlines()) == 30


def test_four_of_a_hundred_run_at_a_time_while_their_workers_are_killed(session, processes, tmp_path):
    file = tmp_path / "notes"
    file.touch()
    pools = [processes.worker("--processes", "2", **SOON) for _ in range(2)]
    processes.scheduler(**SOON)
    asked(session, 100, seconds=0.25, file=str(file))
    seen: set[int] = set()
    killed: dict[int, float] = {}

    def observe() -> int:
        found = states(session)
        seen.add(found.get("running", 0))
        return found.get("completed", 0)

    for kills in range(1, 5):
        wait_until(lambda kills=kills: observe() >= 15 * kills, seconds=60)
        if kills == 3:
            pool = pools.pop()
            doomed = children_of(pool.pid)
            signal_tree(pool, signal.SIGKILL)
            pools.append(processes.worker("--processes", "2", **SOON))
        else:
            doomed = children_of(pools[0].pid)[:1]
            os.kill(doomed[0], signal.SIGKILL)
        killed |= dict.fromkeys(doomed, time.monotonic())
    wait_until(lambda: observe() == 100, seconds=90)
    assert max(seen) == 4, processes.output()
    assert most_at_once(file.read_text().splitlines(), killed) <= 4


def most_at_once(lines: list[str], killed: dict[int, float]) -> int:
    """Return how many of the jobs in the notes ran at the same time, at most; a killed one until its process was."""
    begun: dict[str, tuple[int, float]] = {}
    events: list[tuple[float, int]] = []
    for line in lines:
        pid, claimed, what, moment = line.split()
        if what == "begin":
            begun[claimed] = (int(pid), float(moment))
            events.append((float(moment), 1))
        else:
            del begun[claimed]
            events.append((float(moment), -1))
    events += [(killed[pid], -1) for pid, _ in begun.values()]
    running, most = 0, 0
    for _, step in sorted(events):
        running += step
        most = max(most, running)
    return most
