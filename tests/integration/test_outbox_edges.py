"""The outbox at its edges: commits the database refuses, changes pending before a bulk statement, other writers."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import declarative_base, mapped_column

from app.work_items import Task
from flask_belfry.changes import (
    Actor,
    HookError,
    StatusChange,
    Subject,
    bulk,
    on_change,
    on_created,
    recorded_subject,
    subject_of,
    use_actor,
)
from flask_belfry.changes.errors import ActorError
from flask_belfry.changes.listeners import TrackedModel, tracked_model_of
from flask_belfry.core.clock import utc_now
from flask_belfry.db import BelfrySession, db, table_of
from flask_belfry.db.columns import new_id
from flask_belfry.mail import EmailMessage, MailArgumentError, MailRequest, MailState, send_mail, send_mails
from flask_belfry.mail.models import entry_of
from flask_belfry.outbox import JobArgumentError, JobRecord, JobRequest, JobState, enqueue, enqueue_many, publisher
from tests.domain import Ticket, TicketStatus, greet
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


def test_rq_reads_what_a_published_job_says_of_itself(session, broker):
    id = enqueue("test.act")
    session.commit()
    job = Job.fetch(id, connection=broker, serializer=JSONSerializer)
    assert (job.func_name, job.args, job.kwargs) == (publisher().entry_point, [], {"record_id": id})
    assert (job.origin, job.description, job.get_status()) == ("default", "test.act", JobStatus.QUEUED)
    assert job.timeout == session.get(JobRecord, id).timeout_seconds
    assert job.result_ttl == publisher().result_ttl_seconds
    assert timedelta(0) <= utc_now() - job.created_at < timedelta(minutes=1)
    assert broker.hlen(job.key) == 7


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


FAR = datetime.max.replace(tzinfo=UTC)
INVALID_JOBS = {
    "ticket_id": [
        lambda: enqueue("test.greet", ticket_id=math.nan),
        lambda: enqueue("test.greet", ticket_id=[1, -math.inf]),
        lambda: enqueue("test.greet", ticket_id="1\0"),
        lambda: enqueue("test.greet", ticket_id="\ud800"),
    ],
    "unique_key": [
        lambda key=key: enqueue("test.greet", ticket_id=1, unique_key=key) for key in ("", "k" * 201, "k\0", "\udfff")
    ],
    "subject.type": [lambda: enqueue("test.greet", ticket_id=1, subject=Subject("t" * 61, "1"))],
    "subject.id": [
        lambda id=id: enqueue("test.greet", ticket_id=1, subject=Subject("ticket", id)) for id in ("9" * 41, "", "\0")
    ],
    "change_id": [lambda: enqueue("test.greet", ticket_id=1, change_id="no uuid")],
    "scheduled_at": [
        lambda at=at: enqueue("test.greet", ticket_id=1, scheduled_at=at)
        for at in (utc_now().replace(tzinfo=None), FAR, datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))))
    ]
    + [
        lambda: enqueue_many("test.greet", [JobRequest({"ticket_id": 1}, scheduled_at=utc_now().replace(tzinfo=None))]),
        lambda: enqueue("test.greet", ticket_id=1, delay=FAR - utc_now() - timedelta(days=1)),
    ],
    "delay": [
        lambda delay=delay: enqueue("test.greet", ticket_id=1, delay=delay)
        for delay in (math.inf, math.nan, 1e18, "60", timedelta.max)
    ],
    "id": [lambda: enqueue_many("test.greet", [JobRequest({"ticket_id": 1}, id="no uuid")])],
}


def test_what_some_database_would_not_take_is_refused_before_anything_is_written(session):
    for field, actions in INVALID_JOBS.items():
        for action in actions:
            with pytest.raises(JobArgumentError, match="must be") as refused:
                action()
            assert list(refused.value.fields) == [field]
    for field, values in {"request_id": "r" * 65, "address": "a\0"}.items():
        with pytest.raises(ActorError, match=f"{field} must be"):
            Actor(**{field: values})
    assert session.scalars(sa.select(JobRecord)).all() == []


def test_what_is_at_the_limits_is_taken_by_both_databases(session):
    reference = {"subject": Subject("t" * 60, "9" * 40), "change_id": new_id().upper()}
    late = datetime(9998, 12, 31, 12, tzinfo=timezone(timedelta(hours=-5)))
    with use_actor(Actor(request_id="r" * 64, address="a" * 64)):
        id = enqueue("test.greet", ticket_id=1e308, unique_key="ü" * 200, scheduled_at=late, **reference)
        again = enqueue("test.greet", ticket_id=1, unique_key="ü" * 200)
        past = enqueue("test.greet", ticket_id=1, scheduled_at=datetime.min.replace(tzinfo=UTC))
    session.commit()
    assert (session.get(JobRecord, id).scheduled_at, again) == (late, id)
    assert session.get(JobRecord, past).state is JobState.PENDING


def test_the_id_of_a_row_keeps_its_type_through_hooks_jobs_and_mails(session):
    session.add(ticket := Ticket(title="a"))
    session.execute(sa.insert(Ticket), [{"title": "b"}])
    session.execute(sa.update(Ticket).values(status=TicketStatus.DONE))
    mail_id = send_mail("notice", "a@example.org", "m", subject=subject_of(ticket))
    session.commit()
    jobs = session.scalars(sa.select(JobRecord).where(JobRecord.name.in_(["test.greet", "test.tell"]))).all()
    assert len(jobs) == 4
    assert {type(job.args["ticket_id"]) for job in jobs} == {int}
    assert all(job.subject_id == str(job.args["ticket_id"]) for job in jobs)
    mail = session.get_one(EmailMessage, mail_id)
    assert (mail.subject_id, entry_of(mail).row_id) == (str(ticket.id), ticket.id)
    found = sa.select(StatusChange.subject_id).where(StatusChange.subject_id == ticket.id)
    assert session.scalars(found).all() == [str(ticket.id)]
    assert recorded_subject("reservation", "7") == ("reservation", 7)
    assert recorded_subject("unknown", "7") == ("unknown", "7")
    assert recorded_subject(None, None) is None


def test_a_job_function_enqueues_itself_as_its_name_does(session):
    subject = Subject("ticket", "7")
    ids = [greet.enqueue(ticket_id=7), enqueue("test.greet", ticket_id=7)]
    ids += [
        greet.with_options(delay=60, unique_key="a", subject=subject).enqueue(ticket_id=7),
        enqueue("test.greet", delay=60, unique_key="b", subject=subject, ticket_id=7),
    ]
    ids += greet.enqueue_many([greet.request(ticket_id=1), greet.with_options(unique_key="a").request(ticket_id=2)])
    session.commit()
    assert ids[5] == ids[2]
    records = [session.get_one(JobRecord, id) for id in ids]
    said = [(each.name, each.state, each.args, each.subject_type, each.subject_id) for each in records]
    assert (said[0], said[2]) == (said[1], said[3])
    assert said[2] == ("test.greet", JobState.SCHEDULED, {"ticket_id": 7}, "ticket", "7")
    assert said[4] == ("test.greet", JobState.PENDING, {"ticket_id": 1}, None, None)


def test_a_job_function_refuses_wrong_arguments_where_it_is_enqueued(session):
    for action in (greet.enqueue, lambda: greet.enqueue(ticket_id=1, extra=2)):
        with pytest.raises(JobArgumentError, match=r"test.greet: (ticket_id|extra): is"):
            action()
    with pytest.raises(JobArgumentError, match="scheduled_at or delay, not both"):
        greet.with_options(scheduled_at=utc_now(), delay=1)
    assert session.scalars(sa.select(JobRecord)).all() == []


INVALID_MAILS = {
    "key": [lambda key=key: send_mail("notice", "a@example.org", key) for key in ("", "k" * 251, "k\0", "\ud800")],
    "subject.id": [lambda: send_mail("notice", "a@example.org", "m", subject=Subject("ticket", "9" * 41))],
    "change_id": [lambda: send_mail("notice", "a@example.org", "m", change_id="no uuid")],
    "context": [
        lambda value=value: send_mail("notice", "a@example.org", "m", context={"text": value})
        for value in (math.nan, [math.inf], utc_now(), {1})
    ],
    "delay": [lambda: send_mail("notice", "a@example.org", "m", delay=timedelta.max)],
}


def test_what_some_database_would_not_take_of_a_mail_is_refused_before_anything_is_written(session):
    for field, actions in INVALID_MAILS.items():
        for action in actions:
            with pytest.raises((MailArgumentError, JobArgumentError), match="must be") as refused:
                action()
            assert list(refused.value.fields) == [field]
    assert session.scalars(sa.select(EmailMessage)).all() == []


def test_an_invalid_email_address_is_recorded_as_skipped_in_a_form_that_can_be_stored(session):
    given = ["x" * 400, "İ" * 320, "a\0@example.org", "a\ud800@example.org", "a@\ud800.org"]
    send_mails("notice", [MailRequest([email], f"m/{number}") for number, email in enumerate(given)])
    send_mails("notice", [MailRequest(given, "all")])
    session.commit()
    mails = session.scalars(sa.select(EmailMessage)).all()
    assert {mail.state for mail in mails} == {MailState.SKIPPED}
    assert {mail.recipients[0] for mail in mails} == {
        *("x" * 320, "İ" * 320, "a\ufffd@example.org", "a@\ufffd.org"),
    }


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (mapped_column(sa.String), "active_history=True"),
        (mapped_column(sa.String, active_history=True, onupdate="x"), "onupdate"),
    ],
)
def test_a_column_whose_changes_cannot_be_seen_is_not_watched(column, said):
    base = declarative_base()
    model = type(
        "Model", (base,), {"__tablename__": "m", "id": mapped_column(primary_key=True, type_=sa.Integer), "a": column}
    )
    with pytest.raises(HookError, match=said):
        on_change(model.a)


def test_a_model_whose_key_is_longer_than_a_subject_is_not_watched():
    base = declarative_base()
    model = type("Model", (base,), {"__tablename__": "m", "id": mapped_column(sa.String(41), primary_key=True)})
    with pytest.raises(HookError, match="40 characters"):
        on_created(model)(print)


def test_hooks_write_to_the_session_that_is_flushed(app, session):
    """A session of one's own commits its rows and their jobs, whatever `db.session` does."""
    with BelfrySession(db=db) as own:
        own.add(Ticket(title="own"))
        own.commit()
    session.rollback()
    assert session.scalars(sa.select(JobRecord.name)).all() == ["test.greet"]
