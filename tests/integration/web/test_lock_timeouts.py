"""A row or a table that stays locked keeps no web request for long: it is answered with 503, and its thread is free."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from flask import Blueprint, jsonify

from flask_belfry.core.access import public
from flask_belfry.db import db
from tests.domain import Ticket

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

LIMITS = sa.text("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")


@pytest.fixture
def settings(settings):
    return settings | {"REQUEST_LOCK_TIMEOUT_SECONDS": "0.05", "REQUEST_STATEMENT_TIMEOUT_SECONDS": "0.5"}


@pytest.fixture
def app(app):
    """With pages that wait."""
    probe = Blueprint("probe", __name__)

    @probe.get("/limits")
    @public
    def limits():
        return jsonify(list(db.session.execute(LIMITS).one()))

    @probe.post("/tickets", defaults={"kind": "page"})
    @probe.post("/api/v1/tickets", defaults={"kind": "api"})
    @public
    def change(kind):
        db.session.execute(sa.update(Ticket).values(title=kind))
        db.session.commit()
        return jsonify(kind=kind)

    @probe.get("/slow")
    @public
    def slow():
        return jsonify(db.session.scalar(sa.select(sa.func.pg_sleep(60))))

    app.register_blueprint(probe)
    return app


def test_a_request_that_meets_a_lock_is_answered_503_and_works_when_the_lock_is_gone(client, session):
    session.add(Ticket(title="as it was"))
    session.commit()
    with db.engine.begin() as neighbour:
        neighbour.execute(sa.text("LOCK TABLE tickets"))
        page, api = client.post("/tickets"), client.post("/api/v1/tickets")
    assert (page.status_code, page.headers["Retry-After"]) == (503, "5")
    assert "The database is busy." in page.text
    assert (api.status_code, api.headers["Retry-After"]) == (503, "5")
    assert api.json["message"] == "The database is busy."
    assert client.post("/tickets").json == {"kind": "page"}


def test_a_statement_of_a_request_that_takes_too_long_is_answered_503(client):
    answer = client.get("/slow")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


def test_other_work_has_no_such_limits_on_the_same_connection(client, session):
    for _ in range(2):
        assert client.get("/limits").json == ["50ms", "500ms"]
        session.rollback()
        assert tuple(session.execute(LIMITS).one()) == ("0", "0")
        session.rollback()
    assert db.engine.pool.checkedin() == 1  # pyright: ignore[reportAttributeAccessIssue] - a QueuePool
