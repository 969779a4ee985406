"""A job's changes commit with its new state, and a job cannot commit itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from flask.globals import app_ctx
from sqlalchemy.orm import Session

from flask_belfry.db import db, table_of
from flask_belfry.execution import claim
from flask_belfry.outbox import JobRecord, JobState, enqueue
from tests.domain import Ticket, behaviour
from tests.executions import run
from tests.job_records import asked, read


def test_the_changes_of_a_job_commit_with_its_end(session, work):
    def act(session: Session, ticket_id: int) -> None:
        session.add(Ticket(title="made by the job"))

    behaviour["act"] = act
    id = asked(session)
    work()
    assert read(session, id).state is JobState.COMPLETED
    assert session.scalars(sa.select(Ticket.title)).all() == ["made by the job"]


def commit_after_remove(session: Session) -> None:
    db.session.remove()
    db.session.add(Ticket(title="sneaky"))
    db.session.commit()


def commit_in_a_nested_context(session: Session) -> None:
    with app_ctx.app.app_context():
        db.session.add(Ticket(title="sneaky"))
        db.session.commit()


def commit_in_a_session_of_its_own(session: Session) -> None:
    session.rollback()
    with Session(db.engine) as own:
        own.add(Ticket(title="sneaky"))
        own.commit()


def commit_by_statement(text: str) -> Callable[[Session], None]:
    def commit(session: Session) -> None:
        session.connection().execute(INSERT)
        session.execute(sa.text(text))

    return commit


def commit_each_statement(session: Session) -> None:
    session.rollback()
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(INSERT)


def commit_and_go_on(session: Session) -> None:
    session.connection().execute(INSERT)
    with contextlib.suppress(Exception):
        session.connection().commit()


INSERT = sa.insert(table_of(Ticket)).values(title="sneaky")
WAYS_TO_COMMIT: dict[str, Callable[[Session], object]] = {
    "session": lambda session: (session.add(Ticket(title="sneaky")), session.commit()),
    "after remove": commit_after_remove,
    "nested context": commit_in_a_nested_context,
    "own session": commit_in_a_session_of_its_own,
    "connection": lambda session: (session.connection().execute(INSERT), session.connection().commit()),
    "transaction": lambda session: (session.connection().execute(INSERT), session.get_transaction().commit()),
    "COMMIT": commit_by_statement("COMMIT"),
    "comment and END": commit_by_statement("-- done\n /* really */ end"),
    "ROLLBACK": commit_by_statement("ROLLBACK"),
    "two statements": commit_by_statement("SELECT 1; COMMIT"),
    "AUTOCOMMIT": commit_each_statement,
    "swallowed": commit_and_go_on,
}


@pytest.mark.parametrize("way", WAYS_TO_COMMIT)
def test_a_job_that_commits_itself_is_refused_whichever_way_it_tries(app, session, way):
    behaviour["act"] = lambda session, ticket_id: WAYS_TO_COMMIT[way](session) and None
    id = asked(session)
    run(app, *claim.claim(session, [id], "w"))
    assert read(session, id).error_type == "CommitInJobError"
    assert session.scalars(sa.select(Ticket.title)).all() == []


def test_a_job_may_use_savepoints(session, work):
    def act(session: Session, ticket_id: int) -> None:
        with session.begin_nested():
            session.add(Ticket(title="inside"))
        savepoint = session.begin_nested()
        session.add(Ticket(title="taken back"))
        savepoint.rollback()

    behaviour["act"] = act
    id = asked(session)
    work()
    assert read(session, id).state is JobState.COMPLETED
    assert session.scalars(sa.select(Ticket.title)).all() == ["inside"]


def test_jobs_that_a_job_asks_for_exist_only_if_it_completes(session, work):
    def act(session: Session, ticket_id: int) -> None:
        enqueue("test.greet", ticket_id=ticket_id)
        if ticket_id == 13:
            raise RuntimeError

    behaviour["act"] = act
    asked(session, ticket_id=1)
    asked(session, ticket_id=13)
    work()
    session.rollback()
    greeted = session.scalars(sa.select(JobRecord).where(JobRecord.name == "test.greet")).all()
    assert [(record.args, record.state) for record in greeted] == [({"ticket_id": 1}, JobState.COMPLETED)]
