"""Invariant 1: a job exists if and only if its transaction committed."""

from __future__ import annotations

import contextlib
import threading

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from flask_belfry.changes import StatusChange, bulk
from flask_belfry.changes import session_events as hooks
from flask_belfry.db import db
from flask_belfry.outbox import JobRecord, JobState, enqueue, publisher
from tests.domain import Ticket, TicketStatus


def names(session: Session) -> list[str]:
    return list(session.scalars(sa.select(JobRecord.name).order_by(JobRecord.id)))


def at_broker(broker) -> list[str]:
    return [id.decode() for id in broker.lrange("rq:queue:default", 0, -1)]


@pytest.fixture
def ticket(session: Session) -> Ticket:
    ticket = Ticket(title="a")
    session.add(ticket)
    session.commit()
    session.execute(sa.delete(JobRecord))
    session.commit()
    return ticket


def test_a_commit_makes_the_job_and_publishes_it(session, broker):
    id = enqueue("test.greet", ticket_id=1)
    assert at_broker(broker) == []
    session.commit()
    record = session.get(JobRecord, id)
    assert record.state is JobState.PENDING
    assert record.args == {"ticket_id": 1}
    assert at_broker(broker) == [id]


def test_a_rollback_leaves_neither_job_nor_message(session, broker):
    enqueue("test.greet", ticket_id=1)
    session.rollback()
    session.commit()
    assert names(session) == []
    assert at_broker(broker) == []


def test_a_failing_commit_leaves_neither_job_nor_message(session, broker, ticket):
    enqueue("test.greet", ticket_id=1)
    session.add(Ticket(id=ticket.id, title="the key is taken"))
    session.expunge(ticket)
    with pytest.raises(IntegrityError):
        session.commit()
    session.rollback()
    assert names(session) == []
    assert len(at_broker(broker)) == 1  # the fixture's own


def test_a_savepoint_that_is_rolled_back_takes_its_jobs_along(session, broker):
    kept = enqueue("test.greet", ticket_id=1)
    with contextlib.suppress(ZeroDivisionError), session.begin_nested():
        enqueue("test.greet", ticket_id=2)
        with session.begin_nested():
            enqueue("test.greet", ticket_id=3)
        raise ZeroDivisionError
    released = None
    with session.begin_nested():
        released = enqueue("test.greet", ticket_id=4)
    assert at_broker(broker) == []
    session.commit()
    assert set(session.scalars(sa.select(JobRecord.id))) == {kept, released}
    assert at_broker(broker) == [kept, released]


def test_an_inner_savepoint_that_is_rolled_back_leaves_the_outer_one(session, broker):
    with session.begin_nested():
        outer = enqueue("test.greet", ticket_id=1)
        inner = session.begin_nested()
        enqueue("test.greet", ticket_id=2)
        inner.rollback()
    session.commit()
    assert at_broker(broker) == [outer]


def test_several_commits_publish_each_their_own(session, broker):
    first = enqueue("test.greet", ticket_id=1)
    session.commit()
    second = enqueue("test.greet", ticket_id=2)
    session.commit()
    enqueue("test.greet", ticket_id=3)
    session.rollback()
    assert at_broker(broker) == [first, second]


def test_a_change_and_its_job_commit_together(session, broker, ticket):
    broker.flushall()
    ticket.status = TicketStatus.DOING
    session.flush()
    assert names(session) == ["test.tell"]
    session.rollback()
    assert names(session) == []
    ticket.status = TicketStatus.DONE
    session.commit()
    record = session.scalars(sa.select(JobRecord)).one()
    assert record.args == {"ticket_id": ticket.id, "old": "open", "new": "done"}
    assert at_broker(broker) == [record.id]


def test_setting_a_column_to_its_own_value_records_no_change(session, ticket):
    ticket.status = TicketStatus.OPEN
    ticket.touched = 1
    session.commit()
    assert names(session) == []


def test_an_expired_attribute_still_has_its_old_value(session, ticket):
    session.expire_all()
    ticket.status = TicketStatus.DONE
    session.commit()
    assert session.scalars(sa.select(StatusChange)).one().old == "open"


def test_creation_fires_its_hook_once(session):
    session.add_all([Ticket(title="a"), Ticket(title="b")])
    session.commit()
    assert names(session) == ["test.greet", "test.greet"]


def test_a_row_created_with_a_value_has_not_changed_to_it(session):
    session.add(Ticket(title="a", status=TicketStatus.DONE))
    session.execute(sa.insert(Ticket), [{"title": "b", "status": TicketStatus.DONE}])
    session.commit()
    assert names(session) == ["test.greet", "test.greet"]
    assert session.scalars(sa.select(StatusChange)).all() == []


def test_bulk_insert_fires_the_hooks_of_creation(session):
    session.execute(sa.insert(Ticket), [{"title": str(n)} for n in range(20)])
    session.commit()
    assert names(session) == ["test.greet"] * 20


def test_a_bulk_update_of_1000_rows_makes_1000_jobs(session, broker):
    session.execute(sa.insert(Ticket), [{"title": str(n)} for n in range(1_000)])
    session.execute(sa.update(Ticket).where(Ticket.title == "7").values(status=TicketStatus.DONE))
    session.execute(sa.delete(JobRecord))
    session.commit()
    broker.flushall()
    result = session.execute(sa.update(Ticket).values(status=TicketStatus.DONE, touched=1))
    assert result.rowcount == 1_000
    session.commit()
    changed = session.scalar(sa.select(sa.func.count()).where(JobRecord.name == "test.tell"))
    assert changed == 999  # one was done already: no change, no job
    assert session.scalar(sa.select(sa.func.sum(Ticket.touched))) == 1_000
    assert 0 < len(at_broker(broker)) <= publisher().queues.bound  # the others are the queue's backlog


def test_a_bulk_update_is_dispatched_in_chunks_of_bounded_size(session, monkeypatch):
    monkeypatch.setattr(bulk, "CHUNK_ROWS", 100)
    session.execute(sa.insert(Ticket), [{"title": str(n)} for n in range(450)])
    session.commit()
    sizes = []
    monkeypatch.setattr(hooks, "record", lambda session, found, batch: sizes.append(len(found[0].differences)) or [])
    session.execute(sa.update(Ticket).values(status=TicketStatus.DONE))
    assert sizes == [100, 100, 100, 100, 50]


def test_a_bulk_update_changes_no_row_that_its_hooks_did_not_see(app, session, ticket):
    """On PostgreSQL a row that begins to match after the hooks have read is left alone, not changed in silence."""
    if session.get_bind().dialect.name == "sqlite":
        return  # one writer at a time: no other can come in between

    def late_row(*args: object) -> list[object]:
        with app.app_context():
            db.session.add(Ticket(title="late"))
            db.session.commit()
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks, "record", late_row)
        session.execute(sa.update(Ticket).values(status=TicketStatus.DONE))
    session.commit()
    late = session.scalars(sa.select(Ticket).where(Ticket.title == "late")).one()
    assert late.status is TicketStatus.OPEN


def test_a_bulk_update_that_is_rolled_back_makes_none(session, broker, ticket):
    broker.flushall()
    session.execute(sa.update(Ticket).values(status=TicketStatus.DONE))
    session.rollback()
    assert names(session) == []
    assert at_broker(broker) == []


def test_a_bulk_update_by_key_fires_too(session, ticket):
    session.execute(sa.update(Ticket), [{"id": ticket.id, "status": TicketStatus.DOING}])
    session.commit()
    assert names(session) == ["test.tell"]


def test_a_bulk_update_with_an_expression_records_the_new_value(session, ticket):
    value = sa.case((Ticket.title == "a", TicketStatus.DOING.value), else_=TicketStatus.DONE.value)
    session.execute(sa.update(Ticket).values(status=value))
    session.commit()
    assert session.scalars(sa.select(StatusChange)).one().new == "doing"


def test_a_bulk_update_of_other_columns_fires_nothing(session, ticket):
    session.execute(sa.update(Ticket).values(touched=5))
    session.commit()
    assert names(session) == []


def test_a_bulk_delete_and_its_job_commit_together(session, broker, ticket):
    id = ticket.id
    broker.flushall()
    session.execute(sa.delete(Ticket))
    enqueue("test.greet", ticket_id=id)
    session.rollback()
    assert session.scalar(sa.select(sa.func.count(Ticket.id))) == 1
    assert at_broker(broker) == []


@pytest.mark.parametrize("method", ["bulk_save_objects", "bulk_insert_mappings", "bulk_update_mappings"])
def test_the_legacy_bulk_methods_are_refused_because_they_fire_nothing(session, method):
    with pytest.raises(TypeError, match="fires no hooks"):
        getattr(session, method)(Ticket, [])


def test_it_works_outside_of_any_request_and_on_any_thread(app, broker):
    ids = []

    def work() -> None:
        with app.app_context():
            ids.append(enqueue("test.greet", ticket_id=9))
            db.session.commit()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert at_broker(broker) == ids


def test_an_unavailable_broker_fails_no_commit(app, session):
    from flask_belfry.outbox.broker import connect

    publisher(app).connection = connect("redis://127.0.0.1:1", connect_timeout_seconds=0.04, timeout_seconds=0.04)
    id = enqueue("test.greet", ticket_id=1)
    session.commit()
    assert session.get(JobRecord, id).state is JobState.PENDING
    assert publisher(app).breaker.is_open
