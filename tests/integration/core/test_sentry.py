"""Errors at Sentry: internal errors of requests and final failures of jobs, without personal data."""

from __future__ import annotations

import gzip
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from app.defaults import VERSION
from flask_belfry.core import sentry
from flask_belfry.core.access import public
from flask_belfry.db import db
from flask_belfry.execution import attempts, claim, executor
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.outbox import JobRecord, JobState, enqueue
from tests.conftest import make_app
from tests.domain import behaviour
from tests.job_records import asked, state_is
from tests.processes import Processes
from tests.servers import wait_until

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
SECRET = "anna@example.org"


class SentryServer(ThreadingHTTPServer):
    """Speaks the endpoint of envelopes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []

    @property
    def dsn(self) -> str:
        """The DSN of a project on this server."""
        return f"http://key@127.0.0.1:{self.server_port}/42"

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that have arrived."""
        found = []
        for body in self.bodies:
            lines = body.splitlines()
            items = zip(lines[1::2], lines[2::2], strict=True)
            found += [json.loads(payload) for header, payload in items if json.loads(header)["type"] == "event"]
        return found


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, SentryServer)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_zipped = self.headers.get("Content-Encoding") == "gzip"
        assert self.path == "/api/42/envelope/"
        self.server.bodies.append(gzip.decompress(body) if is_zipped else body)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        pass


@pytest.fixture
def server() -> Iterator[SentryServer]:
    with SentryServer() as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def reporting(settings: dict[str, Any], server: SentryServer, tmp_path: Path) -> Iterator[Flask]:
    """An application that reports to the server."""
    app = make_app(settings | {"SENTRY_DSN": server.dsn}, tmp_path)
    with app.app_context():
        yield app
        db.session.remove()
        db.engine.dispose()
        app.extensions[sentry.EXTENSION].close(0)


def only_event(app: Flask, server: SentryServer) -> dict[str, Any]:
    sentry.flush(app)
    (event,) = server.events
    assert SECRET not in json.dumps(event)
    assert event.keys().isdisjoint({"request", "user", "breadcrumbs", "extra", "message", "logentry", "modules"})
    assert (event["release"], event["environment"]) == (VERSION, "testing")
    return event


def fail(session: Session, ticket_id: int) -> None:
    recipient = SECRET
    raise ValueError(f"{recipient} does not exist")


def run(app: Flask, id: str) -> list[JobState]:
    items = claim.claim(db.session(), [id], "test")
    db.session.commit()
    return [state for _, state in executor.run(app, items, no_limit)]


def test_a_job_is_reported_when_it_failed_finally(reporting, server):
    behaviour["act"] = fail
    id = asked(db.session(), "test.act", ticket_id=4711)
    assert run(reporting, id) == [JobState.RETRYABLE]
    db.session.execute(sa.update(JobRecord).values(state="pending", scheduled_at=None, max_attempts=2))
    db.session.commit()
    assert run(reporting, id) == [JobState.FAILED]
    event = only_event(reporting, server)
    assert event["tags"] == {"job": "test.act", "job_id": id, "attempt": "2"}
    (exception,) = event["exception"]["values"]
    assert exception["type"] == "ValueError"
    assert exception.keys() == {"type", "module", "mechanism", "stacktrace"}
    frame = exception["stacktrace"]["frames"][-1]
    assert (frame["function"], "vars" in frame) == ("fail", False)
    assert "4711" not in json.dumps(event["exception"])


def test_a_poison_pill_is_reported(reporting, server):
    id = enqueue("test.act")
    db.session.execute(sa.update(JobRecord).values(interruptions=reporting.config["MAX_INTERRUPTIONS"] - 1))
    db.session.commit()
    (item,) = claim.claim(db.session(), [id], "test")
    db.session.commit()
    assert attempts.interrupt(db.session(), item, f"killed while it wrote to {SECRET}") is JobState.FAILED
    db.session.commit()
    event = only_event(reporting, server)
    assert event["tags"]["job_id"] == id
    assert event["exception"]["values"][0]["type"] == "PoisonPillError"


def test_an_internal_error_of_a_request_is_reported_without_the_request(reporting, server):
    @public
    def broken() -> str:
        try:
            raise LookupError(SECRET)
        except LookupError as error:
            raise RuntimeError(SECRET) from error

    reporting.add_url_rule("/broken/<email>", "broken", broken, methods=["GET", "POST"])
    reporting.view_functions["broken"] = public(lambda email: broken())
    client = reporting.test_client()
    reporting.config["PROPAGATE_EXCEPTIONS"] = False
    headers = {"Authorization": f"Bearer {SECRET}", "Cookie": f"session={SECRET}", "X-Request-ID": "from-the-proxy"}
    assert client.get(f"/broken/{SECRET}?to={SECRET}", headers=headers).status_code == 500
    event = only_event(reporting, server)
    assert (event["tags"]["endpoint"], event["tags"]["method"]) == ("broken", "GET")
    assert event["tags"]["request_id"]
    assert [each["type"] for each in event["exception"]["values"]] == ["LookupError", "RuntimeError"]
    assert client.get("/no-such-page").status_code in (302, 404)
    sentry.flush(reporting)
    assert len(server.events) == 1


def test_a_heavy_job_is_reported_before_its_process_ends(app, session, settings, server, tmp_path):
    processes = Processes(settings | {"SENTRY_DSN": server.dsn}, tmp_path)
    try:
        id = asked(session, "test.heavy_nap", seconds="long")
        processes.worker("--heavy", "--burst")
        wait_until(state_is(session, id, JobState.FAILED), seconds=30)
        wait_until(lambda: len(server.events) == 1, seconds=10)
        assert server.events[0]["tags"]["job_id"] == id
    finally:
        processes.kill_all()


def test_without_the_package_the_start_is_refused_in_one_line(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentry_sdk.client", None)
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    with pytest.raises(SystemExit) as raised:
        make_app(settings | {"SENTRY_DSN": "https://key@sentry.example.org/1"}, tmp_path)
    assert raised.value.code == f"belfry: {sentry.NO_PACKAGE}"


def test_without_a_dsn_nothing_is_imported_and_a_failure_is_not_reported(app, session):
    behaviour["act"] = fail
    id = asked(session, "test.act", ticket_id=1)
    session.execute(sa.update(JobRecord).values(max_attempts=1))
    session.commit()
    assert run(app, id) == [JobState.FAILED]
    assert sentry.EXTENSION not in app.extensions
