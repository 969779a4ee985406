"""Outgoing webhooks: enqueued with the event, signed, retried, and sent to no private address."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from flask_belfry.changes import Actor, for_school, use_actor
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.execution import claim, executor
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.operations.webhook_client import send
from flask_belfry.operations.webhooks import DELAYS_SECONDS, PermanentWebhookError, WebhookError, announce_groups
from flask_belfry.outbox import JobRecord, JobState, enqueue
from flask_belfry.statistics import FailureGroup, FailureState
from tests.conftest import make_app
from tests.domain import behaviour
from tests.job_records import attempts_of, read
from tests.reservation_factories import make_school
from tests.statistics_factories import counted

ONCE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
SECRET = b"a secret of twenty-four bytes"
CERTIFICATE = Path(__file__).parents[2] / "smtp_localhost.pem"
NAME = "operations.deliver_webhook"


class Received(NamedTuple):
    """A request that the receiver got."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver(ThreadingHTTPServer):
    """A receiver of webhooks, which answers as the test wants."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[Received] = []
        self.status, self.headers = 204, {"Content-Length": "0"}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hooks?token=sesame"


class _Handler(BaseHTTPRequestHandler):
    @property
    def owner(self) -> Receiver:
        """The receiver whose request it handles."""
        assert isinstance(self.server, Receiver)
        return self.server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.owner.received.append(Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(self.owner.status)
        for name, value in self.owner.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def hooked(settings: dict[str, Any], receiver: Receiver, tmp_path: Path) -> Iterator[Flask]:
    """An application that sends all events to the receiver."""
    app = make_app(settings | webhooks(receiver.url), tmp_path)
    with app.app_context():
        yield app
        db.session.remove()
        db.engine.dispose()


def webhooks(url: str, **further: str) -> dict[str, str]:
    return {
        "WEBHOOK_URLS": url,
        "WEBHOOK_SECRET": f"whsec_{base64.b64encode(SECRET).decode()}",
        "WEBHOOK_EVENTS": "job.failed,failures.new,failures.regressed",
        "WEBHOOK_ALLOW_PRIVATE": "true",
    } | further


def run(app: Flask, *ids: str) -> list[JobState]:
    """Run jobs as a worker does."""
    session = db.session()
    session.commit()
    items = claim.claim(session, ids, "test")
    session.commit()
    return [state for _, state in executor.run(app, items, no_limit)]


def fail_a_job(app: Flask, **args: Any) -> str:
    def act(session: Session, ticket_id: int) -> None:
        raise ValueError("Anna does not exist")

    behaviour["act"] = act
    id = enqueue("test.act", **args)
    db.session.execute(sa.update(JobRecord).where(JobRecord.id == id).values(max_attempts=1))
    assert run(app, id) == [JobState.FAILED]
    return id


def webhook_jobs() -> list[str]:
    db.session.rollback()
    return list(db.session.scalars(sa.select(JobRecord.id).where(JobRecord.name == NAME).order_by(JobRecord.id)))


def make_group(state: FailureState, job_name: str = "test.act") -> FailureGroup:
    now = utc_now()
    group = FailureGroup(
        school_id=0,
        fingerprint="abc",
        job_name=job_name,
        error_type="ValueError",
        message="Anna does not exist",
        job_id="0190a1b2-0000-7000-8000-000000000000",
        state=state,
        first_seen_at=now,
        last_seen_at=now,
        failures=3,
    )
    db.session.add(group)
    db.session.flush()
    return group


def test_a_job_that_fails_finally_is_sent_signed_and_without_personal_data(hooked, receiver):
    school_id = make_school().id
    with use_actor(Actor(user_id=7, school_id=school_id)), for_school(school_id):
        id = fail_a_job(hooked, ticket_id=42)
    (webhook,) = webhook_jobs()
    record = read(db.session(), webhook)
    assert (record.school_id, record.user_id, record.subject_id) == (None, None, id), "a job of the system"
    assert "sesame" not in json.dumps(record.args), "the URL may contain a secret"
    assert run(hooked, webhook) == [JobState.COMPLETED]
    ((path, headers, body),) = receiver.received
    assert path == "/hooks?token=sesame"
    assert headers["host"] == f"127.0.0.1:{receiver.server_port}"
    signed = b".".join((headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body))
    expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(headers["webhook-timestamp"]) - utc_now().timestamp()) < 60
    event = json.loads(body)
    assert (event["type"], event["data"]["id"], event["data"]["name"]) == ("job.failed", id, "test.act")
    assert (event["data"]["error_type"], event["data"]["school_id"]) == ("ValueError", school_id)
    assert event["data"]["url"] == f"{hooked.config['PUBLIC_URL']}/jobs/{id}"
    assert b"Anna" not in body
    assert event["data"].keys().isdisjoint({"args", "user_id", "error", "message"})


@ONCE
def test_it_is_retried_with_the_same_id_until_the_receiver_accepts_it(hooked, receiver):
    fail_a_job(hooked)
    (webhook,) = webhook_jobs()
    receiver.status, receiver.headers = 503, {"Retry-After": "120", "Content-Length": "0"}
    assert run(hooked, webhook) == [JobState.RETRYABLE]
    record = read(db.session(), webhook)
    assert record.scheduled_at is not None
    assert 110 < (record.scheduled_at - utc_now()).total_seconds() <= 144, "Retry-After and its jitter"
    assert attempts_of(db.session(), webhook)[0].error_message == "127.0.0.1 answered 503"
    receiver.status = 200
    db.session.execute(sa.update(JobRecord).where(JobRecord.id == webhook).values(state="pending", scheduled_at=None))
    assert run(hooked, webhook) == [JobState.COMPLETED]
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


@ONCE
def test_it_is_given_up_after_the_last_attempt_and_causes_no_webhook_itself(hooked, receiver):
    fail_a_job(hooked)
    (webhook,) = webhook_jobs()
    assert read(db.session(), webhook).max_attempts == len(DELAYS_SECONDS) + 1
    db.session.execute(sa.update(JobRecord).where(JobRecord.id == webhook).values(attempt=len(DELAYS_SECONDS)))
    receiver.status = 500
    assert run(hooked, webhook) == [JobState.FAILED]
    announce_groups(db.session(), [make_group(FailureState.NEW, NAME)])
    db.session.commit()
    assert webhook_jobs() == [webhook]


@ONCE
@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (302, "127.0.0.1 answered 302: redirects are not followed; change WEBHOOK_URLS"),
        (410, "127.0.0.1 answered 410: it accepts no more events; remove it from WEBHOOK_URLS"),
    ],
)
def test_a_redirect_is_not_followed_and_a_receiver_that_is_gone_is_not_asked_again(hooked, receiver, status, reason):
    fail_a_job(hooked)
    (webhook,) = webhook_jobs()
    receiver.status, receiver.headers = status, {"Location": receiver.url, "Content-Length": "0"}
    assert run(hooked, webhook) == [JobState.FAILED]
    assert read(db.session(), webhook).error_message == reason
    assert len(receiver.received) == 1


@ONCE
def test_nothing_is_sent_to_a_private_address_unless_it_is_allowed(settings, receiver, tmp_path):
    app = make_app(settings | webhooks(receiver.url, WEBHOOK_ALLOW_PRIVATE="false"), tmp_path)
    with app.app_context():
        fail_a_job(app)
        (webhook,) = webhook_jobs()
        assert run(app, webhook) == [JobState.FAILED]
        assert read(db.session(), webhook).error_message == (
            "127.0.0.1 is 127.0.0.1, which is not an address of the Internet: set WEBHOOK_ALLOW_PRIVATE to allow it"
        )
    assert receiver.received == []


@ONCE
def test_a_receiver_that_the_settings_no_longer_name_gets_nothing(hooked, settings, receiver, tmp_path):
    fail_a_job(hooked)
    (webhook,) = webhook_jobs()
    other = make_app(settings | webhooks("https://elsewhere.example/"), tmp_path)
    with other.app_context():
        assert run(other, webhook) == [JobState.FAILED]
        message = read(db.session(), webhook).error_message or ""
        assert message.startswith("WEBHOOK_URLS no longer contains the receiver 127.0.0.1-")
    assert receiver.received == []


@ONCE
def test_only_the_chosen_events_are_sent_and_to_each_receiver(settings, receiver, tmp_path):
    urls = f"{receiver.url},https://elsewhere.example/hooks"
    app = make_app(settings | webhooks(urls, WEBHOOK_EVENTS="failures.new"), tmp_path)
    with app.app_context():
        fail_a_job(app)
        announce_groups(db.session(), [make_group(FailureState.REGRESSED)])
        assert webhook_jobs() == []
        announce_groups(db.session(), [make_group(FailureState.NEW)])
        db.session.commit()
        bodies = [read(db.session(), id).args for id in webhook_jobs()]
        assert len(bodies) == 2
        assert len({args["event_id"] for args in bodies}) == 1, "receivers may share an inbox"
        assert sorted(args["receiver"].rpartition("-")[0] for args in bodies) == ["127.0.0.1", "elsewhere.example"]
        event = json.loads(bodies[0]["body"])
        assert (event["type"], event["data"]["failures"]) == ("failures.new", 3)
        assert "Anna" not in bodies[0]["body"]


@ONCE
def test_the_roll_up_sends_new_groups_once_and_those_that_regressed(hooked, settings, clock):
    hooked.config["WEBHOOK_EVENTS"] = ("failures.new", "failures.regressed")
    for _ in range(2):
        fail_a_job(hooked)
        counted(db.session())
    (new,) = webhook_jobs()
    group = db.session.scalars(sa.select(FailureGroup)).one()
    event = json.loads(read(db.session(), new).args["body"])
    assert (event["type"], event["data"]["id"]) == ("failures.new", group.id)
    group.state, group.changed_at = FailureState.RESOLVED, utc_now()
    db.session.commit()
    clock.shift(90)
    fail_a_job(hooked)
    counted(db.session())
    _, regressed = webhook_jobs()
    event = json.loads(read(db.session(), regressed).args["body"])
    assert (event["type"], event["data"]["failures"]) == ("failures.regressed", 3)


@ONCE
def test_the_longest_names_fit_whatever_letters_they_have(settings, tmp_path):
    host = ".".join(["x" * 60] * 4)
    app = make_app(settings | webhooks(f"https://{host}/"), tmp_path)
    with app.app_context():
        group = make_group(FailureState.NEW, "ü" * 120)
        group.error_type, group.frame = "ü" * 120, "ü" * 200
        group.first_release = group.last_release = "ü" * 60
        announce_groups(db.session(), [group])
        db.session.commit()
        assert len(webhook_jobs()) == 1


@ONCE
def test_without_receivers_a_failed_job_enqueues_nothing(app, statements):
    fail_a_job(app)
    assert webhook_jobs() == []


def test_a_webhook_is_enqueued_in_the_transaction_of_the_event(hooked):
    session = db.session()
    announce_groups(session, [make_group(FailureState.NEW)])
    session.rollback()
    assert webhook_jobs() == []
    announce_groups(session, [make_group(FailureState.NEW)])
    session.commit()
    assert len(webhook_jobs()) == 1


# ── The connection ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], list[str]]:
    """Makes a name resolve to an address; returns the list of the names that are looked up."""

    def resolve(name: str, address: str) -> list[str]:
        looked_up: list[str] = []
        real = socket.getaddrinfo

        def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
            if host == name:
                looked_up.append(host)
                # The second answer of a name that rebinds.
                return real(address if len(looked_up) == 1 else "127.0.0.1", *args, **options)
            return real(host, *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return looked_up

    return resolve


def test_the_connection_is_made_to_the_address_that_was_checked(receiver, resolve):
    looked_up = resolve("receiver.example", "127.0.0.1")
    url = f"http://receiver.example:{receiver.server_port}"
    send(url, "evt_1", b"{}", SECRET, allows_private=True)
    assert looked_up == ["receiver.example"]
    assert receiver.received[0].headers["host"] == f"receiver.example:{receiver.server_port}"
    assert receiver.received[0].path == "/"


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1"])
def test_a_name_of_a_private_address_is_refused(receiver, resolve, address):
    resolve("receiver.example", address)
    with pytest.raises(PermanentWebhookError, match=f"receiver.example is {address}, which is not an address"):
        send(f"http://receiver.example:{receiver.server_port}", "evt_1", b"{}", SECRET, allows_private=False)
    assert receiver.received == []


def test_the_certificate_must_be_that_of_the_name(receiver, resolve, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    receiver.socket = context.wrap_socket(receiver.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    send(f"https://localhost:{receiver.server_port}", "evt_1", b"{}", SECRET, allows_private=True)
    assert len(receiver.received) == 1
    resolve("receiver.example", "127.0.0.1")
    with pytest.raises(WebhookError, match=r"^receiver\.example does not respond \(SSLError\)$"):
        send(f"https://receiver.example:{receiver.server_port}", "evt_1", b"{}", SECRET, allows_private=True)
    assert len(receiver.received) == 1


def test_a_server_that_does_not_respond_is_a_temporary_error():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(WebhookError, match=r"^127.0.0.1 does not respond \(NewConnectionError\)$") as raised:
        send(f"http://127.0.0.1:{port}", "evt_1", b"{}", SECRET, allows_private=True)
    assert not isinstance(raised.value, PermanentWebhookError)


def test_an_unknown_name_is_a_temporary_error():
    with pytest.raises(WebhookError, match=r"^receiver\.invalid cannot be resolved"):
        send("https://receiver.invalid/", "evt_1", b"{}", SECRET, allows_private=False)
