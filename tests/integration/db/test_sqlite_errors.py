"""Errors of SQLite's disk and of its lock: an interruption for jobs and mails, and a 503 for requests."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Blueprint, jsonify
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from flask_belfry.core.access import public
from flask_belfry.db import db
from flask_belfry.execution import claim, executor
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.mail import MailRequest, MailState, get_mail, preparation, send_mails
from flask_belfry.outbox import JobState
from tests.domain import Ticket, behaviour
from tests.job_records import asked, count, read

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def settings(settings, smtp):
    return settings | smtp.settings | {"SQLITE_BUSY_TIMEOUT_SECONDS": "0.05"}


@pytest.fixture
def app(app):
    """With a page that writes."""
    probe = Blueprint("probe", __name__)

    @probe.post("/tickets", defaults={"kind": "page"})
    @probe.post("/api/v1/tickets", defaults={"kind": "api"})
    @public
    def change(kind):
        insert_much(db.session())
        db.session.commit()
        return jsonify(kind=kind)

    app.register_blueprint(probe)
    return app


def insert_much(session: Session) -> None:
    session.execute(sa.text("PRAGMA cache_size = 10"))  # it is written before the commit
    session.execute(sa.insert(Ticket).values(title="x" * 1_000_000))


def database_file() -> Path:
    return Path(str(db.engine.url.database))


@contextlib.contextmanager
def no_space() -> Iterator[None]:
    """SQLite's log cannot grow any more: to write into it fails as on a full or broken disk."""
    with db.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA user_version = 1")  # begins the log
    size, before = Path(f"{database_file()}-wal").stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def no_file() -> Iterator[None]:
    """The folder of the database is not there, and no connection is open."""
    db.session.remove()
    db.engine.dispose()
    folder = database_file().parent
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    try:
        yield
    finally:
        elsewhere.rename(folder)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Another process writes for long: here, a connection that takes no turns."""
    stranger = sa.create_engine(db.engine.url)
    with stranger.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield
    stranger.dispose()


TROUBLES = {"no space": no_space, "no file": no_file, "locked": locked}
Trouble = Callable[[], AbstractContextManager[None]]


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_a_request_is_answered_503_and_works_when_it_is_over(client, session, trouble: Trouble):
    session.rollback()
    with trouble():
        page, api = client.post("/tickets"), client.post("/api/v1/tickets")
    assert (page.status_code, page.headers["Retry-After"]) == (503, "5")
    assert (api.status_code, api.headers["Retry-After"]) == (503, "5")
    assert "database" in api.json["message"]
    assert client.post("/tickets").json == {"kind": "page"}
    assert count(session, Ticket) == 1


@pytest.mark.parametrize("trouble", [no_space, locked])
def test_a_job_goes_back_without_a_count_and_runs_again(app, session, trouble: Trouble):
    def act(session: Session, ticket_id: int) -> None:
        with contextlib.ExitStack() as stack:
            if attempts.pop():
                stack.enter_context(trouble())
            insert_much(session)

    behaviour["act"], attempts = act, [False, True]
    id = asked(session)
    for state in (JobState.PENDING, JobState.COMPLETED):
        session.rollback()
        assert executor.run(app, claim.claim(session, [id], "w"), no_limit) == [(id, state)]
    record = read(session, id)
    assert (record.attempt, record.interruptions, record.claims) == (1, 0, 2)
    assert count(session, Ticket) == 1


def test_mails_whose_contexts_meet_it_are_sent_when_it_is_over(app, session, smtp, monkeypatch):
    def contexts(name, entries):
        monkeypatch.undo()
        with locked():
            insert_much(session)

    monkeypatch.setattr(preparation, "_contexts_of_kind", contexts)
    context = {"server": "mail.example.org"}
    mails = send_mails("test-message", [MailRequest([f"p{n}@example.org"], f"t/{n}", context) for n in range(3)])
    session.commit()
    ids = [get_mail(id).job_id for id in mails]
    for state in (JobState.PENDING, JobState.COMPLETED):
        session.rollback()
        ends = executor.run(app, claim.claim(session, ids, "w"), no_limit)
        assert [end for _, end in ends] == [state] * 3
    assert {get_mail(id).state for id in mails} == {MailState.SENT}
    assert len(smtp.received) == 3


def test_an_error_of_a_statement_is_not_taken_for_one_of_the_disk(app, session):
    def act(session: Session, ticket_id: int) -> None:
        with pytest.raises(OperationalError):
            session.execute(sa.text("INSERT INTO missing DEFAULT VALUES"))
        session.execute(sa.text("INSERT INTO missing DEFAULT VALUES"))

    behaviour["act"] = act
    id = asked(session)
    assert executor.run(app, claim.claim(session, [id], "w"), no_limit) == [(id, JobState.RETRYABLE)]
    assert "no such table" in (read(session, id).error_message or "")
