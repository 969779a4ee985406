"""Bulk statements on watched columns: few statements for many rows, and no more memory for more of them."""

from __future__ import annotations

import gc
import tracemalloc
import uuid
from collections import Counter
from datetime import timedelta

import sqlalchemy as sa

from app.reservations import Reservation, ReservationStatus, sweep_overdue
from flask_belfry.changes import Actor, StatusChange, bulk, use_actor
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.db.columns import new_id
from flask_belfry.outbox import JobRecord, JobRequest, JobState, enqueue, enqueue_many, publisher
from flask_belfry.outbox.backlog import BACKLOG_KEY
from tests.conftest import make_app
from tests.job_records import count
from tests.reservation_factories import insert_reservations, make_reservation, make_user, tomorrow


def verbs(statements: list[str]) -> Counter[str]:
    return Counter(statement.split()[0] for statement in statements)


def test_a_sweep_takes_two_statements_however_many_rows_since_no_hook_hears_of_it(session, statements):
    insert_reservations(make_user(), 5_000, ReservationStatus.CONFIRMED, utc_now() - timedelta(hours=2))
    statements.clear()
    assert sweep_overdue(session) == 5_000
    session.commit()
    assert verbs(statements) == {"INSERT": 1, "UPDATE": 1}
    assert count(session, StatusChange) == 5_000


def test_what_the_database_records_by_itself_is_what_one_change_at_a_time_records(session):
    customer = make_user()
    one, other = (make_reservation(customer, status=ReservationStatus.CONFIRMED) for _ in range(2))
    with use_actor(Actor(customer.id, "request-of-the-test")):
        one.status = ReservationStatus.COMPLETED
        session.commit()
        complete = sa.update(Reservation).where(Reservation.id == other.id)
        session.execute(complete.values(status=ReservationStatus.COMPLETED))
        session.commit()
    by_flush, by_database = session.scalars(sa.select(StatusChange).order_by(StatusChange.at))
    same = ("subject_type", "field", "old", "new", "user_id", "request_id", "job_id")
    assert [getattr(by_database, name) for name in same] == [getattr(by_flush, name) for name in same]
    assert (by_flush.subject_id, by_database.subject_id) == (str(one.id), str(other.id))
    assert by_flush.at < by_database.at <= utc_now()


def test_ids_that_the_database_makes_are_like_ours(session):
    insert_reservations(make_user(), 200, ReservationStatus.CONFIRMED, utc_now() - timedelta(hours=2))
    before = new_id()
    sweep_overdue(session)
    session.commit()
    ids = list(session.scalars(sa.select(StatusChange.id)))
    assert len(set(ids)) == 200
    assert {(uuid.UUID(id).version, uuid.UUID(id).variant) for id in ids} == {(7, uuid.RFC_4122)}
    assert before[:13] <= min(ids)[:13] <= max(ids)[:13] <= new_id()[:13]
    assert len({uuid.UUID(id).bytes[8] >> 4 for id in ids}) == 4  # the bits beside the variant are random


def test_a_bulk_update_that_sends_mails_takes_four_statements_for_each_thousand(session, statements):
    insert_reservations(make_user(), 3_000, ReservationStatus.PENDING, tomorrow())
    statements.clear()
    session.execute(sa.update(Reservation).values(status=ReservationStatus.CONFIRMED))
    session.commit()
    # Of each thousand the addresses, and their changes, mails and jobs.
    assert verbs(statements) == {"SELECT": 1 + 3, "UPDATE": 1, "INSERT": 3 * 3}
    assert not any(statement.startswith("UPDATE") and "RETURNING" in statement for statement in statements)
    assert count(session, JobRecord) == 3_000


def test_a_bulk_update_takes_no_more_memory_for_more_rows(session, monkeypatch):
    monkeypatch.setattr(bulk, "CHUNK_ROWS", 50)
    monkeypatch.setattr(publisher().queues, "bound", 50)
    customer = make_user()

    def peak_bytes(rows: int) -> int:
        insert_reservations(customer, rows, ReservationStatus.PENDING, tomorrow())
        update = sa.update(Reservation).where(Reservation.status == ReservationStatus.PENDING)
        gc.collect()
        # CPython 3.11 keeps 2,000 freed tuples of each length up to 20, as rows have.
        for length in range(1, 21):
            [tuple(range(start, start + length)) for start in range(2_000)]
        gc.disable()  # a collection would empty that list
        tracemalloc.start()
        try:
            session.execute(update.values(status=ReservationStatus.CONFIRMED))
            session.commit()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            gc.enable()

    peak_bytes(50)  # caches are filled
    assert peak_bytes(1_000) - peak_bytes(100) < 100_000


def test_of_very_many_jobs_a_commit_publishes_what_their_queue_can_hold(session, broker, monkeypatch):
    monkeypatch.setattr(publisher().queues, "bound", 10)
    ids: list[str] = []
    for _ in range(3):
        with session.begin_nested():
            ids += enqueue_many("test.greet", [JobRequest({"ticket_id": n}) for n in range(7)])
    other = enqueue("test.nap", seconds=0)
    session.commit()
    assert broker.lrange("rq:queue:default", 0, -1) == [id.encode() for id in ids[:10]]
    assert broker.lrange("rq:queue:bulk", 0, -1) == [other.encode()]  # each queue has its own bound
    assert broker.smembers(BACKLOG_KEY) == {b"default"}


def test_what_a_savepoint_took_back_makes_no_backlog(session, broker, monkeypatch):
    monkeypatch.setattr(publisher().queues, "bound", 10)
    savepoint = session.begin_nested()
    enqueue_many("test.greet", [JobRequest({"ticket_id": n}) for n in range(21)])
    savepoint.rollback()
    id = enqueue("test.greet", ticket_id=1)
    session.commit()
    assert broker.lrange("rq:queue:default", 0, -1) == [id.encode()]
    assert not broker.exists(BACKLOG_KEY)


def test_without_a_relay_a_commit_runs_all_its_jobs_however_many(settings, tmp_path, monkeypatch):
    eager = make_app({**settings, "JOBS_EAGER": "true"}, tmp_path / "eager")
    with eager.app_context():
        monkeypatch.setattr(publisher().queues, "bound", 10)
        enqueue_many("test.greet", [JobRequest({"ticket_id": n}) for n in range(21)])
        db.session.commit()
        assert set(db.session.scalars(sa.select(JobRecord.state))) == {JobState.COMPLETED}
        db.session.remove()
        db.engine.dispose()
