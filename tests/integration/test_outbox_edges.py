"""The outbox at its edges: commits the database refuses, changes pending before a bulk statement, other writers."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError

from app.extensions import BelfrySession, db, table_of
from app.outbox import HookError, JobRecord, StatusChange, bulk, enqueue, publisher
from app.outbox.changes import Watch
from tests.domain import Ticket, TicketStatus


@pytest.fixture
def ticket(session, broker):
    ticket = Ticket(title="a")
    session.add(ticket)
    session.commit()
    session.execute(sa.delete(JobRecord))
    session.commit()
    broker.flushall()
    return ticket


def test_a_commit_that_the_database_refuses_publishes_nothing(session, broker):
    enqueue("test.greet", ticket_id=1)

    def refuse(connection: sa.Connection) -> None:
        raise OperationalError("COMMIT", {}, Exception("disk full"))

    event.listen(db.engine, "commit", refuse)
    try:
        with pytest.raises(OperationalError):
            session.commit()
    finally:
        event.remove(db.engine, "commit", refuse)
    session.rollback()
    assert broker.llen("rq:queue:default") == 0


def test_a_change_that_waits_in_the_session_is_recorded_before_a_bulk_update(session, ticket):
    ticket.status = TicketStatus.DOING
    session.execute(sa.update(Ticket).values(status=TicketStatus.DONE))
    session.commit()
    changes = session.execute(sa.select(StatusChange.old, StatusChange.new).order_by(StatusChange.id)).all()
    assert {tuple(change) for change in changes} == {("open", "doing"), ("doing", "done")}


def test_a_bulk_update_by_key_to_the_same_value_is_no_change(session, ticket):
    session.execute(sa.update(Ticket), [{"id": ticket.id, "status": TicketStatus.OPEN}])
    session.commit()
    assert session.scalars(sa.select(JobRecord)).all() == []


def test_what_the_session_has_loaded_shows_a_bulk_update_at_once(session, ticket):
    assert ticket.status is TicketStatus.OPEN
    session.execute(sa.update(Ticket).values(status=TicketStatus.DONE))
    assert ticket.status is TicketStatus.DONE


def test_a_bulk_update_leaves_what_is_loaded_when_its_caller_says_so(session, ticket):
    assert ticket.status is TicketStatus.OPEN
    options = {"synchronize_session": False}
    session.execute(sa.update(Ticket).values(status=TicketStatus.DONE), execution_options=options)
    assert ticket.status is TicketStatus.OPEN


@pytest.fixture(params=["heard by a hook", "recorded by the database alone"])
def meanwhile(request, monkeypatch):
    """Runs a function between the reading of the old values and the UPDATE, in both ways in which they are read."""
    chunks, record_matching = bulk._chunks, bulk.record_matching
    if request.param != "heard by a hook":
        monkeypatch.setattr(Watch, "hears", lambda *_: False)

    def set_action(action) -> None:
        def read_and_act(session, query):
            yield from chunks(session, query)
            action()

        def record_and_act(*args):
            record_matching(*args)
            action()

        monkeypatch.setattr(bulk, "_chunks", read_and_act)
        monkeypatch.setattr(bulk, "record_matching", record_and_act)

    return set_action


def test_a_row_that_appears_during_a_bulk_update_is_changed_and_recorded_or_not_at_all(session, ticket, meanwhile):
    if db.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has one writer")

    def insert() -> None:
        with db.engine.begin() as other:
            other.execute(sa.insert(table_of(Ticket)).values(title="late", status=TicketStatus.OPEN, touched=0))

    meanwhile(insert)
    session.execute(sa.update(Ticket).values(status=TicketStatus.DONE))
    session.commit()
    done = session.scalar(sa.select(sa.func.count(Ticket.id)).where(Ticket.status == TicketStatus.DONE))
    recorded = session.scalar(sa.select(sa.func.count(StatusChange.id)))
    assert done == recorded == 1


def test_nobody_changes_a_row_between_the_reading_of_its_old_value_and_a_bulk_update(session, ticket, meanwhile):
    if db.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has one writer")
    refused = []

    def update() -> None:
        with db.engine.begin() as other:
            other.execute(sa.text("SET LOCAL lock_timeout = '200ms'"))
            try:
                other.execute(sa.update(table_of(Ticket)).values(status=TicketStatus.DOING))
            except OperationalError:
                refused.append(True)

    meanwhile(update)
    session.execute(sa.update(Ticket).values(status=TicketStatus.DONE))
    session.commit()
    assert refused == [True]


def test_whatever_goes_wrong_in_publishing_never_reaches_whoever_committed(app, session, monkeypatch):
    def fail(records: object) -> None:
        raise RuntimeError("no Redis error")

    monkeypatch.setattr(publisher(app), "publish", fail)
    id = enqueue("test.greet", ticket_id=1)
    session.commit()
    assert session.get(JobRecord, id) is not None


def test_a_bulk_update_with_a_named_parameter_records_the_new_value(session, ticket):
    statement = sa.update(Ticket).values(status=sa.bindparam("wanted"))
    session.execute(statement, {"wanted": TicketStatus.DONE})
    session.commit()
    assert session.scalars(sa.select(StatusChange.new)).all() == ["done"]


def test_an_upsert_of_a_watched_model_is_refused(session, ticket):
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(Ticket).values(id=ticket.id, title="b", status="done")
    statement = statement.on_conflict_do_update(index_elements=["id"], set_={"status": "done"})
    with pytest.raises(HookError, match="which rows are new"):
        session.execute(statement)


def test_hooks_write_to_the_session_that_is_flushed(app, session):
    """A session of one's own commits its rows and their jobs, whatever `db.session` does."""
    with BelfrySession(db=db) as own:
        own.add(Ticket(title="own"))
        own.commit()
    session.rollback()
    assert session.scalars(sa.select(JobRecord.name)).all() == ["test.greet"]
