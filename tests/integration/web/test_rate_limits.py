"""How often things may be tried: counted in a real broker for all processes, in memory while it is away."""

from __future__ import annotations

import io
import time
from datetime import timedelta

import pytest
import sqlalchemy as sa
from redis.connection import AbstractConnection

from app.accounts import limits
from app.accounts.registration import COLLECTED_FOR
from app.web import limiting
from flask_belfry.core.clock import utc_now
from flask_belfry.mail import EmailMessage
from flask_belfry.outbox import JobRecord, JobState, publisher
from tests.conftest import make_app
from tests.reservation_factories import PASSWORD, bearer, make_user
from tests.reservation_factories import log_in as log_in_page
from tests.servers import ValkeyServer, short_folder

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
LOGIN = "/api/v1/auth/login"
ROOMS = "/api/v1/reservations"
ELSEWHERE = {"REMOTE_ADDR": "192.0.2.7"}


class Unreadable(io.BytesIO):
    """A body that records whether it was read."""

    is_read = False

    def readinto(self, buffer: object) -> int:
        """Called by whatever parses."""
        self.is_read = True
        return 0


def log_in(client, login: str, password: str = "wrong", **options):
    return client.post(LOGIN, json={"username": login, "password": password}, **options)


def test_the_eleventh_wrong_password_is_a_429_for_this_login_and_this_address_only(client):
    user, other = make_user(), make_user()
    assert [log_in(client, user.username).status_code for _ in range(limits.LOGINS.times)] == [401] * 10
    answer = log_in(client, user.username, PASSWORD)
    assert answer.status_code == 429
    assert answer.json.keys() == {"code", "status", "message", "errors"}
    assert 0 < int(answer.headers["Retry-After"]) <= limits.LOGINS.seconds
    page = client.post("/login", data={"login": user.username.upper(), "password": PASSWORD})
    assert page.status_code == 429
    assert int(page.headers["Retry-After"]) > 0
    assert log_in(client, other.username, PASSWORD).status_code == 200
    assert log_in(client, user.username, PASSWORD, environ_base=ELSEWHERE).status_code == 200


def test_the_times_come_back_one_by_one(client, clock):
    user = make_user()
    for _ in range(limits.LOGINS.times):
        log_in(client, user.username)
        clock.shift(30)
    assert log_in(client, user.username).status_code == 429
    clock.shift(limits.LOGINS.seconds - 30 * limits.LOGINS.times + 1)
    assert [log_in(client, user.username).status_code for _ in range(2)] == [401, 429]


def test_a_login_gives_all_tries_back(client):
    user = make_user()
    for _ in range(2):
        assert {log_in(client, user.username).status_code for _ in range(limits.LOGINS.times - 1)} == {401}
        assert log_in(client, user.username, PASSWORD).status_code == 200


def test_an_address_that_tries_many_logins_is_stopped(client, monkeypatch):
    monkeypatch.setattr(limits, "FAILED_LOGINS", limiting.Limit("failed-logins", 3, 60))
    codes = [log_in(client, f"nobody{number}").status_code for number in range(5)]
    assert codes == [401, 401, 401, 429, 429]
    assert log_in(client, "nobody", environ_base=ELSEWHERE).status_code == 401


@pytest.mark.parametrize("path", ["resend-confirmation", "password-reset"])
def test_a_client_asks_for_so_many_mails_to_one_mailbox_however_it_is_spelled(client, path):
    def ask(email: str, **options) -> int:
        return client.post(f"/api/v1/auth/{path}", json={"email": email}, **options).status_code

    spellings = ["eve@bücher.example", "eve@xn--bcher-kva.example", "eve@ｂücher.example"] * 2
    assert [ask(email) for email in spellings] == [202] * 5 + [429]
    assert [ask("ada@example.org") for _ in range(limits.REQUESTED_MAILS.times + 1)] == [202] * 5 + [429]
    assert [ask(spelling) for spelling in ("Ada@example.org ", "ada@ｅxample.org", "ada@example。org")] == [429] * 3
    assert ask("ada@example.org", environ_base=ELSEWHERE) == 202
    assert ask("bob@example.org") == 202


RESET, RESEND = "accounts.send_password_reset", "accounts.resend_confirmation"


@pytest.mark.parametrize(
    ("path", "confirmed_at", "job"),
    [("password-reset", utc_now(), RESET), ("resend-confirmation", None, RESEND), ("register", None, RESEND)],
)
def test_a_mailbox_that_others_have_flooded_still_gets_one_mail(client, session, monkeypatch, path, confirmed_at, job):
    monkeypatch.setattr(limits, "MAILS_TO_MAILBOX", limiting.Limit("few", 3, 3600))
    owner = make_user(email="ada@example.org", confirmed_at=confirmed_at)

    def ask(number: int) -> int:
        body = {"email": "ada@example.org"}
        if path == "register":
            body |= {"username": f"ada{number}", "password": PASSWORD}
        elsewhere = {"REMOTE_ADDR": f"192.0.2.{number}"}
        return client.post(f"/api/v1/auth/{path}", json=body, environ_base=elsewhere).status_code

    assert {ask(number) for number in range(8)} == {201 if path == "register" else 202}
    gathered = session.scalars(sa.select(JobRecord).where(JobRecord.unique_key.is_not(None), JobRecord.name == job))
    (waiting,) = gathered
    assert waiting.state == JobState.SCHEDULED
    assert waiting.scheduled_at is not None
    assert waiting.scheduled_at - waiting.created_at == pytest.approx(COLLECTED_FOR, abs=timedelta(seconds=1))
    if path != "register":
        assert waiting.args == {"user_id": owner.id}
        assert session.scalar(sa.select(sa.func.count()).where(JobRecord.name == job)) == 3 + 1
    else:
        assert session.scalar(sa.select(sa.func.count()).select_from(EmailMessage)) == 3
    assert "ada@" not in str(waiting.unique_key)


def test_a_user_writes_so_often_whether_on_pages_or_by_the_api(app, client, monkeypatch):
    monkeypatch.setattr(limits, "WRITES", limiting.Limit("writes", 3, 60))
    monkeypatch.setattr(limits, "ANONYMOUS_WRITES", limiting.Limit("anonymous", 5, 60))
    user, other = make_user(), make_user()
    log_in_page(client, user)
    token, others_token = bearer(user), bearer(other)
    assert client.post("/logout", data={}).status_code == 302
    assert [app.test_client().post(ROOMS, json={}, headers=token).status_code for _ in range(3)] == [422, 422, 429]
    assert client.get("/api/v1/me", headers=token).status_code == 200
    assert app.test_client().post(ROOMS, json={}, headers=others_token).status_code == 422
    assert [app.test_client().post("/no-such-page").status_code for _ in range(5)] == [404] * 4 + [429]


def test_the_limit_of_writes_costs_one_trip_to_redis_and_reading_costs_none(client, monkeypatch):
    seen, send = [], AbstractConnection.send_packed_command
    token = bearer(make_user())
    client.post(ROOMS, json={}, headers=token)  # the first one loads the script
    monkeypatch.setattr(
        AbstractConnection,
        "send_packed_command",
        lambda *args, **options: (seen.append(args), send(*args, **options))[1],
    )
    client.get("/api/v1/me", headers=token)
    assert seen == []
    client.post(ROOMS, json={}, headers=token)
    assert len(seen) == 1


def test_a_write_beyond_the_limit_costs_no_parsing(client, monkeypatch):
    monkeypatch.setattr(limits, "ANONYMOUS_WRITES", limiting.Limit("anonymous", 0, 60))
    body = Unreadable()
    for path in ("/login", LOGIN):
        answer = client.post(path, input_stream=body, content_length=100, content_type="application/json")
        assert (answer.status_code, body.is_read) == (429, False)


@pytest.mark.parametrize(
    ("limit", "path", "body"),
    [
        ("REGISTRATIONS", "register", {"username": "x", "password": "y"}),
        ("CODES", "confirm", {"code": "123456"}),
        ("CODES", "password-reset/confirm", {"token": "x", "password": PASSWORD}),
    ],
)
def test_registrations_and_codes_are_limited_by_address(client, monkeypatch, limit, path, body):
    monkeypatch.setattr(limits, limit, limiting.Limit("few", 2, 60))

    def ask(number: int, **options) -> int:
        email = {} if "token" in body else {"email": f"a{number}@example.org"}
        return client.post(f"/api/v1/auth/{path}", json=body | email, **options).status_code

    assert [ask(number) for number in range(3)] == [422, 422, 429]
    assert ask(3, environ_base=ELSEWHERE) == 422


def test_processes_count_together_and_the_broker_learns_no_address(app, settings, client, tmp_path, broker):
    for _ in range(limits.LOGINS.times):
        log_in(client, "someone")
    other = make_app(settings, tmp_path)
    assert log_in(other.test_client(), "someone").status_code == 429
    keys = b" ".join(broker.keys("*"))
    assert b"belfry:limits" in keys
    assert b"someone" not in keys
    assert b"127.0.0.1" not in keys


def test_without_the_broker_a_process_counts_for_itself_and_waits_once(app, client):
    with short_folder() as folder:
        gone = ValkeyServer(folder)
        publisher().connection.connection_pool.connection_kwargs["path"] = str(gone.socket)
        publisher().connection.connection_pool.disconnect()
        codes = [log_in(client, "someone").status_code for _ in range(limits.LOGINS.times + 1)]
    assert codes == [401] * limits.LOGINS.times + [429]
    assert publisher().breaker.is_open


def test_a_frozen_broker_is_waited_for_once(settings, tmp_path):
    with short_folder() as folder:
        server = ValkeyServer(folder)
        server.start()
        app = make_app(settings | {"REDIS_URL": server.url, "BROKER_TIMEOUT_SECONDS": "0.5"}, tmp_path)
        with app.test_request_context():
            limiting.hit(limits.CODES, "x")
            server.freeze()
            began = time.monotonic()
            for _ in range(5):
                limiting.hit(limits.CODES, "x")
            assert time.monotonic() - began < 2 * 0.5
            server.thaw()
        server.stop()


def test_limits_can_be_switched_off(app, client):
    app.config["RATE_LIMITS_ENABLED"] = False
    assert {log_in(client, "someone").status_code for _ in range(limits.LOGINS.times + 2)} == {401}


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
    ],
)
def test_a_client_is_known_by_what_it_cannot_change(app, address, key):
    with app.test_request_context(environ_base={"REMOTE_ADDR": address}):
        assert limiting.client_key() == key
