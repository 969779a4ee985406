"""The database goes away in the middle: nothing is lost, nothing is done twice, and everything goes on by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from app.extensions import db
from app.mail import MailRequest, MailState, close_connections, delivery, get_mail, send_mails, transport
from app.outbox import JobAttempt, JobRecord, JobState, enqueue
from jobs.engine import claim, current_job, execution
from jobs.engine.deadlines import no_limit
from tests.domain import Ticket, behaviour
from tests.servers import CuttingProxy, PostgresServer, short_folder
from tests.smtp import SmtpServer

CONTEXT = {"server": "mail.example.org"}

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def proxy(settings: dict[str, str], postgres: PostgresServer) -> Iterator[CuttingProxy]:
    """Stands between the database and the application that a test asks for after it."""
    with short_folder() as folder:
        proxy = CuttingProxy(folder, postgres.socket)
        settings["DATABASE_URL"] = settings["DATABASE_URL"].replace(str(postgres.socket.parent), str(folder))
        yield proxy
        proxy.stop()


@pytest.fixture
def smtp(settings: dict[str, str]) -> Iterator[SmtpServer]:
    """A server that takes every mail of the application that a test asks for after it."""
    server = SmtpServer().start()
    settings |= {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": str(server.port)}
    yield server
    server.stop()


@pytest.fixture
def app(app: Flask) -> Iterator[Flask]:
    yield app
    close_connections()


def asked(session: Session, name: str = "test.act", **args: Any) -> str:
    id = enqueue(name, **args)
    session.commit()
    return id


def attempt_at(app: Flask, session: Session, *ids: str) -> execution.Ends:
    """Claims and runs jobs as a worker does."""
    session.rollback()
    return execution.run(app, claim.claim(session, ids, "w"), no_limit)


def read(session: Session, id: str) -> JobRecord:
    session.rollback()
    return session.get_one(JobRecord, id, populate_existing=True)


def count(session: Session, model: type) -> int:
    session.rollback()
    return session.scalar(sa.select(sa.func.count()).select_from(model)) or 0


def lose_connection(session: Session) -> None:
    """Ends the session's connection as a stopping server does."""
    pid = session.scalar(sa.select(sa.func.pg_backend_pid()))
    with db.engine.connect() as other:
        other.execute(sa.select(sa.func.pg_terminate_backend(pid)))


def go_on(session: Session) -> None:
    session.execute(sa.select(Ticket)).all()


def swallow_it(session: Session) -> None:
    try:
        session.add(Ticket(title="lost"))
        session.flush()
    except Exception:
        session.execute(sa.select(Ticket)).all()  # refused: the transaction is gone


def tell_it_in_own_words(session: Session) -> None:
    try:
        go_on(session)
    except Exception:
        raise RuntimeError("cannot read the tickets") from None


@pytest.mark.parametrize("reaction", [go_on, swallow_it, tell_it_in_own_words, lambda session: None])
def test_a_job_that_lost_the_database_goes_back_without_a_count_whatever_it_makes_of_it(app, session, reaction):
    def act(session: Session, ticket_id: int) -> None:
        session.add(Ticket(title="half done"))
        session.flush()
        lose_connection(session)
        reaction(session)

    behaviour["act"] = act
    id = asked(session)
    assert attempt_at(app, session, id) == [(id, JobState.PENDING)]
    record = read(session, id)
    assert (record.attempt, record.interruptions) == (0, 0)
    assert (count(session, Ticket), count(session, JobAttempt)) == (0, 0)


def test_a_job_that_fails_while_its_connection_is_gone_has_failed(app, session):
    def act(session: Session, ticket_id: int) -> None:
        lose_connection(session)  # and the rollback finds out
        raise RuntimeError("for another reason")

    behaviour["act"] = act
    id = asked(session)
    assert attempt_at(app, session, id) == [(id, JobState.RETRYABLE)]
    assert read(session, id).error_message == "for another reason"


def test_a_job_that_lets_its_own_connection_time_out_has_failed(app, session):
    def act(session: Session, ticket_id: int) -> None:
        session.execute(sa.text("SET idle_in_transaction_session_timeout = 1"))
        time.sleep(0.1)
        session.execute(sa.select(1))

    behaviour["act"] = act
    id = asked(session)
    assert attempt_at(app, session, id) == [(id, JobState.RETRYABLE)]
    assert "idle-in-transaction" in (read(session, id).error_message or "")


def test_a_job_that_takes_the_database_down_each_time_is_a_poison_pill_in_the_end(app, session):
    def act(session: Session, ticket_id: int) -> None:
        lose_connection(session)
        go_on(session)

    behaviour["act"] = act
    id = asked(session)
    times = 0
    while read(session, id).state is JobState.PENDING:
        attempt_at(app, session, id)
        times += 1
    record = read(session, id)
    assert (record.state, record.error_type) == (JobState.FAILED, "PoisonPillError")
    assert times == execution.FORGIVEN_OUTAGES + app.config["MAX_INTERRUPTIONS"]


def test_a_chunk_that_lost_the_database_keeps_what_it_answered_and_gives_back_the_rest(app, session):
    def act(chunk: Any) -> None:
        chunk.answer(next(iter(chunk)))
        chunk.session.execute(sa.select(1))
        lose_connection(chunk.session)
        go_on(chunk.session)

    behaviour["chunk"] = act
    ids = [asked(session, "test.act_in_chunks", ticket_id=n) for n in range(3)]
    assert [state for _, state in attempt_at(app, session, *ids)] == [JobState.COMPLETED] + [JobState.PENDING] * 2
    assert [(read(session, id).attempt, read(session, id).interruptions) for id in ids] == [(1, 0), (0, 0), (0, 0)]


# ── The COMMIT whose answer is lost ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_job_whose_commit_got_no_answer_is_done_once(proxy, app, session, moment):
    def act(session: Session, ticket_id: int) -> None:
        session.add(Ticket(title="done"))
        proxy.cut = moment if current_job().claim.number == 1 else None

    behaviour["act"] = act
    id = asked(session)
    has_arrived = moment == "after"
    assert attempt_at(app, session, id) == ([] if has_arrived else [(id, JobState.PENDING)])
    assert count(session, Ticket) == has_arrived
    if not has_arrived:
        assert attempt_at(app, session, id) == [(id, JobState.COMPLETED)]
    record = read(session, id)
    assert (record.state, record.attempt, record.interruptions) == (JobState.COMPLETED, 1, 0)
    assert (count(session, Ticket), count(session, JobAttempt)) == (1, 0)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_mails_whose_commit_got_no_answer_are_sent_once(smtp, proxy, app, session, monkeypatch, moment):
    def deliver(message: Any) -> Any:
        receipt = transport.deliver_message(message)
        if len(smtp.received) == 3:
            proxy.cut = moment
        return receipt

    monkeypatch.setattr(delivery, "deliver_message", deliver)
    mails = send_mails("test-message", [MailRequest([f"p{n}@example.org"], f"t/{n}", CONTEXT) for n in range(3)])
    session.commit()
    ids = [get_mail(id).job_id for id in mails]
    attempt_at(app, session, *ids)
    assert proxy.cut is None
    assert {read(session, id).state for id in ids} == {JobState.COMPLETED}
    assert {get_mail(id).state for id in mails} == {MailState.SENT}
    assert len(smtp.received) == 3


# ── The web process ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_without_a_database_is_answered_in_its_own_form_and_the_next_one_as_ever(client, session, postgres):
    session.rollback()
    login = {"email": "nobody@example.org", "password": "wrong"}
    assert client.post("/api/v1/auth/login", json=login).status_code == 401
    postgres.stop()
    try:
        api, page = (
            client.post("/api/v1/auth/login", json=login),
            client.post("/login", data={"login": "nobody", "password": "wrong"}),
        )
    finally:
        postgres.start()
    assert (api.status_code, api.json["message"]) == (503, "The database does not answer.")
    assert (page.status_code, "The database does not answer." in page.text) == (503, True)
    assert [answer.headers["Retry-After"] for answer in (api, page)] == ["5", "5"]
    assert client.post("/api/v1/auth/login", json=login).status_code == 401
