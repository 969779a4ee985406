"""What runs beside a large backlog reads as few ids and rows as beside a small one."""

from __future__ import annotations

from datetime import timedelta

import pytest
import redis
import time_machine
from redis.client import Pipeline
from sqlalchemy import event

from flask_belfry.changes import for_school
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.execution.claim import claim
from flask_belfry.outbox import JobRequest, enqueue, enqueue_many, publisher
from flask_belfry.outbox.backlog import FairChoice
from flask_belfry.outbox.relay import ids_at_rq, relay
from flask_belfry.workers.threaded import ThreadedWorker

SCHOOLS = 5


@pytest.fixture
def settings(settings):
    return settings | {"WORKER_BATCH": "10"}


def enqueue_for_each_school(session, count: int) -> None:
    for school_id in (None, *range(1, SCHOOLS)):
        with for_school(school_id):
            enqueue_many("test.act", [JobRequest() for _ in range(count)])
    session.commit()


def work_beside(app, session) -> None:
    """Make a pass of the relay, choose and claim a batch, and enqueue one job."""
    with time_machine.travel(utc_now() + timedelta(seconds=5)):
        relay(publisher(app))
    claim(session, FairChoice().choose(session, "default", 10).ids, "w")
    enqueue("test.act")
    session.commit()


def test_as_many_statements_run_beside_a_large_backlog_and_as_few_ids_are_at_rq(app, session, statements):
    seen = []
    for count in (20, 400):
        enqueue_for_each_school(session, count)
        work_beside(app, session)  # the queue is full from here on
        statements.clear()
        work_beside(app, session)
        seen.append([statement.split("(", 1)[0] for statement in statements])
        assert len(ids_at_rq(publisher(app))) <= publisher(app).queues.bound
    assert seen[0] == seen[1]


def test_a_job_of_a_queue_without_a_backlog_costs_no_further_round_trip_or_statement(
    session, valkey, statements, monkeypatch
):
    worker = ThreadedWorker(["mail", "default", "bulk"], connection=valkey.client())
    trips: list[str] = []
    for owner, name in ((redis.Redis, "execute_command"), (Pipeline, "execute")):
        monkeypatch.setattr(owner, name, noted(getattr(owner, name), trips))

    enqueue_for_each_school(session, 20)
    while worker._claim(worker._fetch(worker._capacity(), block=False)) or worker._backlogs._ending:
        worker._in_flight.discard(worker._in_flight.claims())  # until the backlog has ended
    for _ in range(3):  # the first one learns that it has ended
        trips.clear()
        enqueue("test.act")
        session.commit()
        published, fetched = len(trips), worker._fetch(worker._capacity(), block=False)
        seen = [published, len(trips) - published]
        statements.clear()
        assert len(worker._claim(fetched)) == 1
        claimed = [statement.split()[0] for statement in statements]
    assert (seen, claimed) == ([1, 3], ["UPDATE"])  # the worker has three queues


def noted(function, trips: list[str]):
    def call(*args, **options):
        trips.append(function.__name__)
        return function(*args, **options)

    return call


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_few_rows_are_read_also_while_the_statistics_are_old(app, session):
    """PostgreSQL counts what each statement reads; SQLite is given its index by name."""
    enqueue_for_each_school(session, 3_000)  # of fewer it would rather read all
    work_beside(app, session)
    rows = []

    def explain(connection, cursor, statement, parameters, *_) -> None:
        if not statement.startswith(("SELECT", "UPDATE", "WITH")) or "job_records" not in statement:
            return
        cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + statement, parameters)
        rows.append((rows_read(cursor.fetchone()[0][0]["Plan"]), statement))

    event.listen(db.engine, "before_cursor_execute", explain)
    try:
        FairChoice().choose(session, "default", 10)
        session.rollback()
        with time_machine.travel(utc_now() + timedelta(seconds=5)):
            relay(publisher(app))
    finally:
        event.remove(db.engine, "before_cursor_execute", explain)
    assert len(rows) > 5
    assert max(rows)[0] <= 200, max(rows)


def rows_read(plan) -> float:
    """Return the most rows that a node of a plan read, those that it filtered included."""
    own = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return max([own, *(rows_read(child) for child in plan.get("Plans", []))])
