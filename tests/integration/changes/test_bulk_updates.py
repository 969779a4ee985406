"""Bulk updates of tracked columns: their changes are recorded, or the statement is refused."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError

from app.work_items import Task
from flask_belfry.changes import HookError, StatusChange, bulk
from flask_belfry.changes.listeners import TrackedModel, tracked_model_of
from flask_belfry.db import db, table_of
from flask_belfry.outbox import JobRecord
from tests.domain import Ticket, TicketStatus
from tests.reservation_factories import make_user
from tests.work_item_factories import make_task


@pytest.fixture
def ticket(session, broker):
    ticket = Ticket(title="a")
    session.add(ticket)
    session.commit()
    session.execute(sa.delete(JobRecord))
    session.commit()
    broker.flushall()
    return ticket


def test_a_change_that_waits_in_the_session_is_recorded_before_a_bulk_update(session, ticket):
    ticket.status = TicketStatus.DOING
    session.execute(sa.update(Ticket).values(status=TicketStatus.DONE))
    session.commit()
    changes = session.execute(sa.select(StatusChange.old, StatusChange.new).order_by(StatusChange.id)).all()
    assert {tuple(change) for change in changes} == {("open", "doing"), ("doing", "done")}


def test_a_bulk_update_by_key_to_the_same_value_records_no_change(session, ticket):
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
        monkeypatch.setattr(TrackedModel, "has_listener", lambda *_: False)

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


def test_no_other_writer_changes_a_row_between_the_reading_of_its_old_value_and_a_bulk_update(
    session, ticket, meanwhile
):
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


def test_a_bulk_update_with_a_named_parameter_records_the_new_value(session, ticket):
    statement = sa.update(Ticket).values(status=sa.bindparam("wanted"))
    session.execute(statement, {"wanted": TicketStatus.DONE})
    session.commit()
    assert session.scalars(sa.select(StatusChange.new)).all() == ["done"]


def upserts(dialect, target):
    """Inserts that set the status of rows that are there already."""

    def finished(statement):
        return statement.on_conflict_do_update(index_elements=["id"], set_={"status": "done"})

    rows = [{"id": 1, "title": "b", "status": "done", "touched": 0}]
    read = sa.select(sa.literal(1), sa.literal("b"), sa.literal("done"), sa.literal(0)).where(sa.true())
    return [
        finished(dialect.insert(target).values(**rows[0])),
        finished(dialect.insert(target).values(rows)),
        finished(dialect.insert(target).from_select(["id", "title", "status", "touched"], read)),
        sa.insert(target).prefix_with("OR REPLACE").values(**rows[0]),
        finished(dialect.insert(target)),
    ]


@pytest.mark.parametrize("watched_for", ["all", "changes"])
def test_an_upsert_of_a_watched_table_is_refused(session, monkeypatch, watched_for):
    if watched_for == "changes":
        monkeypatch.setattr(tracked_model_of(Ticket), "created", [])
        monkeypatch.setattr(tracked_model_of(Ticket), "changed", {"status": []})  # as `record_changes` alone leaves it
    for dialect in (postgresql, sqlite):
        for target in (Ticket, table_of(Ticket)):
            for statement in upserts(dialect, target):
                with pytest.raises(HookError, match="which rows are new"):
                    session.execute(statement)
            with pytest.raises(HookError, match="which rows are new"):
                session.execute(statement, [{"title": "a"}, {"title": "b"}])


TICKETS = table_of(Ticket)
SET_DONE = sa.update(Ticket).values(status=TicketStatus.DONE).returning(Ticket)
CORE_SET_DONE = sa.update(TICKETS).values(status="done").returning(TICKETS.c.id)
PASSING_BY = {
    "from_statement": sa.select(Ticket).from_statement(SET_DONE),
    "from_statement, insert": sa.select(Ticket).from_statement(sa.insert(Ticket).values(title="b").returning(Ticket)),
    "Core update": CORE_SET_DONE,
    "Core update of an alias": sa.update(TICKETS.alias()).values(status="done"),
    "Core insert": sa.insert(TICKETS).values(title="b"),
    "CTE": sa.select(CORE_SET_DONE.cte()),
    "CTE of the model": sa.select(SET_DONE.cte()),
    "CTE in a subquery": sa.select(Ticket.id).where(Ticket.id.in_(sa.select(CORE_SET_DONE.cte().c.id))),
    "CTE beside": sa.select(sa.literal(1)).add_cte(sa.insert(TICKETS).values(title="b").cte()),
    "CTE of an update that fires": sa.update(Ticket).values(
        touched=sa.select(CORE_SET_DONE.cte().c.id).scalar_subquery()
    ),
}


def test_a_write_that_would_pass_the_hooks_by_is_refused(session, ticket):
    for form, statement in PASSING_BY.items():
        with pytest.raises(HookError, match=r"use session\.execute\((update|insert)\(Ticket\)"):
            pytest.fail(f"{form} returned {session.execute(statement)}")
    with pytest.raises(HookError, match="status"):
        session.execute(sa.update(TICKETS).where(TICKETS.c.id == ticket.id), {"status": "done"})


def test_a_core_statement_that_sets_no_watched_column_runs(session, ticket):
    session.execute(sa.update(TICKETS).values(touched=7))
    assert session.scalars(sa.select(Ticket.touched)).all() == [7]


def test_an_update_that_returns_its_rows_fires_and_returns_them_as_they_are_now(session, ticket):
    assert ticket.status is TicketStatus.OPEN
    assert [row.status for row in session.scalars(SET_DONE)] == [TicketStatus.DONE]
    assert session.scalars(sa.select(StatusChange.new)).all() == ["done"]


def test_an_insert_that_returns_its_rows_fires_the_hooks_of_creation(session):
    returned = session.scalars(sa.insert(Ticket).returning(Ticket), [{"title": "a"}, {"title": "b"}]).all()
    assert [row.title for row in returned] == ["a", "b"]
    jobs = session.scalars(sa.select(JobRecord.args).where(JobRecord.name == "test.greet")).all()
    assert sorted(args["ticket_id"] for args in jobs) == sorted(row.id for row in returned)


def test_ordered_values_and_synonyms_are_seen_too(session, ticket):
    session.execute(sa.update(Ticket).ordered_values((Ticket.touched, 1), (Ticket.status, "done")))
    task = make_task(responsible=make_user())
    session.execute(sa.update(Task).values(assignee_id=None))
    session.commit()
    fields = sa.select(StatusChange.subject_type, StatusChange.field, StatusChange.new)
    assert {tuple(row) for row in session.execute(fields)} == {
        ("ticket", "status", "done"),
        ("work_item", "responsible_id", None),
    }
    assert task.responsible_id is None


def test_an_update_with_a_list_of_rows_and_a_condition_is_refused(session, ticket):
    statement = sa.update(Ticket).where(Ticket.touched == 0).execution_options(synchronize_session=None)
    with pytest.raises(HookError, match="list of rows"):
        session.execute(statement, [{"id": ticket.id, "status": "done"}])


def test_an_attribute_set_to_an_expression_is_refused(session, ticket):
    ticket.status = sa.case((Ticket.touched == 0, "done"), else_="open")
    with pytest.raises(HookError, match="expression"):
        session.commit()
