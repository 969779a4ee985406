"""Behind PgBouncer in transaction mode, as hosted PostgreSQL often is: nothing is left on a connection of the server.

Uses Debian's pgbouncer, which `.ci/run` installs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from flask import Blueprint, jsonify

from flask_belfry.core.access import public
from flask_belfry.db import db
from flask_belfry.mail import MailRequest, MailState, get_mail, send_mails
from flask_belfry.outbox import JobState
from tests.domain import Ticket, behaviour
from tests.job_records import asked, count, read
from tests.servers import PgBouncer, PostgresServer, short_folder

pytestmark = [
    pytest.mark.parametrize("database_url", ["postgresql"], indirect=True),
    pytest.mark.skipif(PgBouncer.PROGRAM is None, reason="no pgbouncer here: apt-get install pgbouncer"),
]

CONNECTIONS = 3
LIMITS = sa.text("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")


@pytest.fixture
def settings(settings: dict[str, str], postgres: PostgresServer, smtp) -> Iterator[dict[str, str]]:
    with short_folder() as folder:
        pooler = PgBouncer(folder, postgres)
        url = settings["DATABASE_URL"].replace(str(postgres.socket.parent), str(folder))
        yield settings | smtp.settings | {"DATABASE_URL": url}
        pooler.stop()


@pytest.fixture
def app(app):
    """With a page more, and with several connections of the server that transactions take turns on."""
    probe = Blueprint("probe", __name__)

    @probe.get("/limits")
    @public
    def limits():
        return jsonify(list(db.session.execute(LIMITS).one()))

    app.register_blueprint(probe)
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(db.engine.connect()).execute(sa.text("SELECT 1"))
    return app


def test_statements_that_are_repeated_run_on_whatever_connection_comes(app, session):
    servers = set()
    for number in range(20):
        servers.add(session.scalar(sa.select(sa.func.pg_backend_pid())))
        session.add(Ticket(title=str(number)))
        session.commit()
    assert len(servers) == CONNECTIONS
    assert count(session, Ticket) == 20


def test_jobs_and_mails_go_their_way(app, session, work):
    def act(session, ticket_id: int) -> None:
        session.add(Ticket(title=str(ticket_id)))

    behaviour["act"] = act
    ids = [asked(session, ticket_id=number) for number in range(30)]
    context = {"server": "mail.example.org"}
    mails = send_mails("test-message", [MailRequest([f"p{n}@example.org"], f"t/{n}", context) for n in range(10)])
    session.commit()
    work()
    assert {(read(session, id).state, read(session, id).claims) for id in ids} == {(JobState.COMPLETED, 1)}
    assert {get_mail(id).state for id in mails} == {MailState.SENT}
    assert count(session, Ticket) == 30


def test_the_limits_of_a_request_stay_with_its_transaction(app, client):
    for _ in range(10):
        assert client.get("/limits").json == ["5s", "5s"]
        db.session.rollback()
        assert tuple(db.session.execute(LIMITS).one()) == ("0", "0")
        db.session.rollback()
