"""The database becomes unavailable during work: nothing is lost or done twice, and work continues by itself."""

from __future__ import annotations

import http.client
import json
import select
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from flask_belfry.db import db
from flask_belfry.db.engine import KEEPALIVE
from flask_belfry.execution import claim, current_job, executor
from flask_belfry.execution.chunk import COMMIT_SECONDS
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.mail import MailRequest, MailState, delivery, get_mail, send_mails, transport
from flask_belfry.outbox import JobAttempt, JobRecord, JobState, WorkerProcess
from tests.domain import Ticket, behaviour
from tests.job_records import asked, count, read
from tests.servers import CuttingProxy, PostgresServer, free_port, short_folder, wait_until

HOLDING_ON = ("test.hold_on", "test.hold_on_in_chunks")
CONTEXT = {"server": "mail.example.org"}

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def proxy(settings: dict[str, str], postgres: PostgresServer) -> Iterator[CuttingProxy]:
    """A proxy between the database and the application that a test requests after it."""
    with short_folder() as folder:
        proxy = CuttingProxy(folder, postgres.socket)
        settings["DATABASE_URL"] = settings["DATABASE_URL"].replace(str(postgres.socket.parent), str(folder))
        yield proxy
        proxy.stop()


@pytest.fixture
def settings(settings, smtp):
    return settings | smtp.settings


def answer_of(port: int) -> tuple[int, Any, Any]:
    """The status, headers and body with which the API answers someone unknown: after a look into the database."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/api/v1/me", headers={"Authorization": "Bearer unknown"})
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())
    except ConnectionRefusedError:
        return 0, {}, {}
    finally:
        connection.close()


def attempt_at(app: Flask, session: Session, *ids: str) -> executor.Transitions:
    """Claim and run jobs as a worker does."""
    session.rollback()
    return executor.run(app, claim.claim(session, ids, "w"), no_limit)


def all_are(session: Session, ids: list[str], state: JobState) -> bool:
    session.rollback()
    return set(session.scalars(sa.select(JobRecord.state).where(JobRecord.id.in_(ids)))) == {state}


def lose_connection(session: Session) -> None:
    """End the session's connection as a stopping server does."""
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


LIMITS = {
    "statement": ("SET LOCAL statement_timeout = 1", "SELECT pg_sleep(10)"),
    "idle": ("SET idle_in_transaction_session_timeout = 1", "SELECT 1"),
    "lock": ("SET LOCAL lock_timeout = 1", "LOCK TABLE tickets"),
    "read-only": ("SET TRANSACTION READ ONLY", "DELETE FROM tickets"),
}


@pytest.mark.parametrize(("setting", "statement"), LIMITS.values(), ids=LIMITS)
def test_a_job_that_meets_a_limit_of_the_database_goes_back_without_a_count(app, session, setting, statement):
    def act(session: Session, ticket_id: int) -> None:
        session.execute(sa.text(setting))
        if "idle" in setting:
            wait_until(lambda: is_ended(session.connection().connection.driver_connection))
        session.execute(sa.text(statement))

    behaviour["act"] = act
    id = asked(session)
    with db.engine.begin() as neighbour:
        neighbour.execute(sa.text("LOCK TABLE tickets IN ACCESS SHARE MODE"))
        assert attempt_at(app, session, id) == [(id, JobState.PENDING)]
    record = read(session, id)
    assert (record.attempt, record.interruptions) == (0, 0)


def is_ended(connection: Any) -> bool:
    """Whether the server has said its last word on a connection."""
    return bool(select.select([connection.fileno()], [], [], 0)[0])


def test_a_job_that_takes_the_database_down_each_time_waits_longer_and_is_a_poison_pill_in_the_end(app, session, clock):
    def act(session: Session, ticket_id: int) -> None:
        lose_connection(session)
        go_on(session)

    behaviour["act"] = act
    id = asked(session)
    delays, states = executor.OUTAGE_DELAYS_SECONDS, []
    for delay_seconds in (*delays, *[0] * app.config["MAX_INTERRUPTIONS"]):
        states += [state for _, state in attempt_at(app, session, id)]
        clock.shift(delay_seconds)
    record = read(session, id)
    assert (record.state, record.error_type) == (JobState.FAILED, "PoisonPillError")
    assert states == [
        *(JobState.RETRYABLE if delay_seconds else JobState.PENDING for delay_seconds in delays),
        *[JobState.PENDING] * (app.config["MAX_INTERRUPTIONS"] - 1),
        JobState.FAILED,
    ]


def test_a_chunk_that_lost_the_database_keeps_what_it_answered_and_releases_the_rest(app, session, postgres):
    def act(chunk: Any) -> None:
        chunk.session.execute(sa.select(1))
        postgres.stop("immediate")
        threading.Timer(0.5, postgres.start).start()
        chunk.answer(next(iter(chunk)))  # waits for the next commit
        time.sleep(COMMIT_SECONDS)
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


def test_either_side_of_a_connection_notices_when_the_other_has_vanished(session):
    names = [f"tcp_keepalives_{what}" for what in ("idle", "interval", "count")] + ["tcp_user_timeout"]
    found = session.execute(sa.text("SELECT name, source FROM pg_settings WHERE name = ANY(:names)"), {"names": names})
    assert dict(found.all()) == dict.fromkeys(names, "session")  # the values are those of connections over a network
    ours = psycopg.conninfo.conninfo_to_dict(session.connection().connection.driver_connection.info.dsn)
    assert {name: int(ours[name]) for name in KEEPALIVE} == KEEPALIVE


# ── Everything at once, as processes ─────────────────────────────────────────────────────────────────────────────


def test_the_whole_stack_goes_on_by_itself_after_the_database_was_restarted(smtp, app, session, processes, postgres):
    smtp.delay_seconds = 0.2
    port = free_port()
    web = ("gunicorn", "tests.root:app", "--bind", f"127.0.0.1:{port}", "--no-control-socket", "--threads", "4")
    grace = {"SHUTDOWN_GRACE_SECONDS": "1"}
    stack = [
        processes.worker(**grace),
        processes.worker("--heavy", **grace),
        processes.scheduler(),
        processes.start(*web),
    ]
    wait_until(lambda: answer_of(port)[0] == 401 and count(session, WorkerProcess) == 3, seconds=120)
    begun: list[str] = []
    mails: list[str] = []
    for mode in ("fast", "immediate"):
        new = [asked(session, name) for name in HOLDING_ON for _ in range(3)]
        begun += [*new, asked(session, "test.heavy_hold_on")]
        wait_until(partial(all_are, session, [*new, begun[-1]], JobState.RUNNING), seconds=30)
        # The mails come after them, so that each of them has a thread when the database goes.
        letters = [MailRequest([f"{mode}-{n}@example.org"], f"{mode}/{n}", CONTEXT) for n in range(20)]
        mails += send_mails("test-message", letters)
        later = asked(session, "test.greet", delay=2, ticket_id=1)
        smtp.wait_for(len(mails) - 15, 30)
        session.rollback()

        postgres.stop(mode)
        status, headers, body = answer_of(port)
        postgres.start()
        db.engine.dispose()  # this process's own connections, of a moment ago
        assert (status, headers["Retry-After"], body["status"]) == (503, "5", "Service Unavailable")
        wait_until(lambda: answer_of(port)[0] == 401, seconds=30)
        jobs = [*begun, later, *(get_mail(id).job_id for id in mails)]
        wait_until(partial(all_are, session, jobs, JobState.COMPLETED), seconds=60)

    assert [process.poll() for process in stack] == [None] * 4
    assert {read(session, id).attempt for id in jobs} == {1}
    assert count(session, JobAttempt) == 0
    assert count(session, Ticket) == len(begun)
    assert {get_mail(id).state for id in mails} == {MailState.SENT}
    assert len(smtp.received) == len(mails)

    last = [asked(session, "test.hold_on"), asked(session, "test.heavy_hold_on")]
    wait_until(partial(all_are, session, last, JobState.RUNNING), seconds=30)
    session.rollback()
    postgres.stop("immediate")
    for process in stack:
        process.terminate()
    try:
        assert [process.wait(30) for process in stack] == [0] * 4, processes.output()
    finally:
        postgres.start()
