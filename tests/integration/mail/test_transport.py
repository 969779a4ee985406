"""Connections to real SMTP servers: TLS, logins, several recipients, and the development inbox's address."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask_mail
import pytest
from flask import Flask

from app import create_app
from flask_belfry.mail import (
    PermanentMailError,
    ServerUnreachableError,
    TemporaryMailError,
    check_connection,
    close_connections,
    pool,
)
from flask_belfry.mail import transport as transport_module
from flask_belfry.mail.errors import SessionRefusedError
from flask_belfry.mail.message import OutgoingMessage
from flask_belfry.mail.transport import Connection, deliver_message, lend_connection, smtp_settings
from tests.servers import wait_until
from tests.smtp import CERTIFICATE, SmtpServer

MakeApp = Callable[..., Flask]


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    """Makes an application with these settings, and stays in its context."""
    contexts: list[Any] = []

    def make(server: SmtpServer | None = None, **environ: str) -> Flask:
        base = {"APP_ENV": "testing", "DATABASE_URL": "sqlite:///unused.sqlite3", "REDIS_URL": "redis://127.0.0.1:1"}
        if server is not None:
            base |= {"MAIL_SERVER": "localhost", "MAIL_PORT": str(server.port), "MAIL_TIMEOUT_SECONDS": "1"}
        app = create_app(environ=base | environ, instance_path=tmp_path)
        contexts.append(app.app_context())
        contexts[-1].push()
        return app

    yield make
    for context in contexts:
        close_connections()
        context.pop()


@pytest.fixture
def start() -> Iterator[Callable[..., SmtpServer]]:
    """Starts servers."""
    servers: list[SmtpServer] = []

    def start(**options: Any) -> SmtpServer:
        servers.append(SmtpServer(**options).start())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def message(*recipients: str) -> OutgoingMessage:
    return OutgoingMessage(
        subject="Hello",
        recipients=recipients or ("ada@example.org",),
        text="Text\n.\n..dots",
        html="<p>HTML</p>",
        message_id="<1@belfry.example>",
        sender="Belfry <no-reply@belfry.example>",
    )


def test_starttls_with_a_trusted_certificate_delivers(make_app: MakeApp, start: Callable[..., SmtpServer]) -> None:
    server = start(offers_tls=True)
    make_app(server, MAIL_USE_TLS="true", MAIL_CA_FILE=str(CERTIFICATE))
    deliver_message(message())
    assert "STARTTLS" in server.commands
    assert len(server.received) == 1


def test_tls_from_the_first_byte_delivers(make_app: MakeApp, start: Callable[..., SmtpServer]) -> None:
    server = start(speaks_tls=True)
    make_app(server, MAIL_USE_SSL="true", MAIL_CA_FILE=str(CERTIFICATE))
    deliver_message(message())
    assert len(server.received) == 1


@pytest.mark.parametrize(("options", "setting"), [("offers_tls", "MAIL_USE_TLS"), ("speaks_tls", "MAIL_USE_SSL")])
def test_a_certificate_without_a_trusted_authority_is_refused(
    make_app: MakeApp, start: Callable[..., SmtpServer], options: str, setting: str
) -> None:
    server = start(**{options: True})
    make_app(server, **{setting: "true"})
    with pytest.raises(ServerUnreachableError, match="certificate verify failed"):
        deliver_message(message())
    assert server.received == []


def test_a_certificate_of_another_name_is_refused(make_app: MakeApp, start: Callable[..., SmtpServer]) -> None:
    server = start(offers_tls=True)
    make_app(server, MAIL_SERVER="127.0.0.1", MAIL_USE_TLS="true", MAIL_CA_FILE=str(CERTIFICATE))
    with pytest.raises(ServerUnreachableError, match="certificate verify failed"):
        deliver_message(message())


def test_nothing_is_sent_in_the_clear_when_tls_was_asked_for(
    make_app: MakeApp, start: Callable[..., SmtpServer]
) -> None:
    server = start()
    make_app(server, MAIL_USE_TLS="true")
    with pytest.raises(ServerUnreachableError, match="STARTTLS"):
        deliver_message(message())
    assert not any(command.upper().startswith("MAIL") for command in server.commands)


def test_a_login_that_is_right_delivers(make_app: MakeApp, start: Callable[..., SmtpServer]) -> None:
    server = start(login=("desk", "secret"))
    make_app(server, MAIL_USERNAME="desk", MAIL_PASSWORD="secret")
    deliver_message(message())
    assert len(server.received) == 1


def test_a_login_that_is_wrong_may_be_mended(make_app: MakeApp, start: Callable[..., SmtpServer]) -> None:
    server = start(login=("desk", "secret"))
    make_app(server, MAIL_USERNAME="desk", MAIL_PASSWORD="guess")
    with pytest.raises(ServerUnreachableError, match=r"535 5\.7\.8"):
        deliver_message(message())


def test_a_login_that_is_missing_may_be_mended(make_app: MakeApp, start: Callable[..., SmtpServer]) -> None:
    make_app(start(login=("desk", "secret")))
    with pytest.raises(TemporaryMailError, match=r"530 5\.7\.0"):
        deliver_message(message())


def test_of_several_recipients_those_that_are_taken_get_the_mail(
    make_app: MakeApp, start: Callable[..., SmtpServer]
) -> None:
    server = start()
    server.fail("rcpt", "550 5.1.1 unknown", recipient="bob@example.org")
    make_app(server)
    receipt = deliver_message(message("ada@example.org", "bob@example.org"))
    assert [str(refusal) for refusal in receipt.refusals] == ["bob@example.org: 550 5.1.1 unknown"]
    assert server.received[0].recipients == ("ada@example.org",)


@pytest.mark.parametrize(("other", "expected"), [("550 no", PermanentMailError), ("450 later", TemporaryMailError)])
def test_when_all_recipients_are_refused_one_that_may_pass_decides(
    make_app: MakeApp, start: Callable[..., SmtpServer], other: str, expected: type[Exception]
) -> None:
    server = start()
    server.fail("rcpt", "550 unknown", recipient="ada@example.org")
    server.fail("rcpt", other, recipient="bob@example.org")
    make_app(server)
    with pytest.raises(expected):
        deliver_message(message("ada@example.org", "bob@example.org"))


def test_lines_that_begin_with_a_dot_arrive_as_they_were(make_app: MakeApp, start: Callable[..., SmtpServer]) -> None:
    server = start()
    make_app(server)
    deliver_message(message())
    assert server.received[0].body("plain").splitlines() == ["Text", ".", "..dots"]


def test_flask_mails_own_way_of_sending_works_too(make_app: MakeApp, start: Callable[..., SmtpServer]) -> None:
    server = start()
    make_app(server)
    transport_module.mail.send_message("Hello", recipients=["ada@example.org"], body="Text")
    assert server.received[0].message["Subject"] == "Hello"
    with pytest.raises(flask_mail.BadHeaderError):
        transport_module.mail.send_message("Hello", recipients=["a@b.org\nBcc: c@d.org"], body="Text")


def in_threads(app: Flask, count: int, do: Callable[[], object]) -> list[Exception]:
    """Runs a function in several threads at the same time; the errors that it raised."""
    errors: list[Exception] = []

    def run() -> None:
        with app.app_context():
            try:
                do()
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_threads_that_send_at_the_same_time_have_connections_of_their_own_which_others_use_later(
    make_app: MakeApp, start: Callable[..., SmtpServer]
) -> None:
    server = start()
    app = make_app(server)
    barrier = threading.Barrier(3)

    def send_two() -> None:
        with lend_connection():
            barrier.wait()
            deliver_message(message())
            deliver_message(message())

    assert in_threads(app, 3, send_two) == []
    assert (len(server.received), server.connections) == (6, 3)
    deliver_message(message())
    assert (len(server.received), server.connections) == (7, 3)


@pytest.mark.parametrize("refuses_at", ["connect", "ehlo", "mail"])
def test_threads_share_the_connections_that_the_server_admits(
    make_app: MakeApp, start: Callable[..., SmtpServer], refuses_at: str
) -> None:
    server = start(admits=2, refuses_at=refuses_at, delay_seconds=0.01)
    app = make_app(server)

    def send_five() -> None:
        for _ in range(5):
            while True:
                try:
                    deliver_message(message())
                    break
                except SessionRefusedError:  # a delivery releases its mail then
                    assert refuses_at == "mail"

    assert in_threads(app, 6, send_five) == []
    assert len(server.received) == 30


def test_all_threads_learn_that_the_server_admits_none(make_app: MakeApp, start: Callable[..., SmtpServer]) -> None:
    server = start(admits=0)
    app = make_app(server)
    errors = in_threads(app, 6, lambda: deliver_message(message()))
    assert {type(error) for error in errors} == {ServerUnreachableError}
    assert len(errors) == 6
    assert all("421 4.7.0 too many connections" in str(error) for error in errors)
    server.admits = None
    deliver_message(message())


def test_the_number_of_connections_grows_again_when_the_server_admits_more(
    make_app: MakeApp, start: Callable[..., SmtpServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "PROBE_SECONDS", 0.05)
    server = start(admits=1, delay_seconds=0.01)
    app = make_app(server)
    done = threading.Event()

    def send() -> None:
        while not done.is_set():
            deliver_message(message())

    threads = threading.Thread(target=lambda: errors.extend(in_threads(app, 3, send)))
    errors: list[Exception] = []
    threads.start()
    server.wait_for(5)
    server.admits = 3
    wait_until(lambda: server.open_connections == 3)
    done.set()
    threads.join()
    assert errors == []


def test_an_idle_connection_is_closed_for_others_to_have_it(
    make_app: MakeApp, start: Callable[..., SmtpServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.05)
    server = start()
    make_app(server)
    deliver_message(message())
    wait_until(lambda: server.open_connections == 0)
    assert server.commands[-1].lower() == "quit"
    deliver_message(message())
    assert (len(server.received), server.connections) == (2, 2)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("login", [("office", "Schlüssel€9"), ("büro", "plain")])
def test_names_and_passwords_are_said_in_utf_8(
    make_app: MakeApp, start: Callable[..., SmtpServer], mechanism: str, login: tuple[str, str]
) -> None:
    server = start(login=login, mechanisms=(mechanism,))
    make_app(server, MAIL_USERNAME=login[0], MAIL_PASSWORD=login[1])
    deliver_message(message())
    assert len(server.received) == 1


@pytest.mark.parametrize(
    ("own", "settings", "expected"),
    [
        ("mx1.example.org", {}, "mx1.example.org"),
        ("MX1.example.org.", {}, "mx1.example.org"),
        ("mx1.example.org", {"MAIL_EHLO_NAME": "relay.example.net"}, "relay.example.net"),
        ("4f1c9a", {"PUBLIC_URL": "https://desk.example.org:8443"}, "desk.example.org"),
        ("localhost.localdomain", {"PUBLIC_URL": "https://bücher.example"}, "xn--bcher-kva.example"),
        ("mail_1.example.org", {"PUBLIC_URL": "https://desk.example.org"}, "desk.example.org"),
        ("ip6-localhost", {"MAIL_MESSAGE_ID_DOMAIN": "example.org"}, "example.org"),
        ("4f1c9a", {}, "[127.0.0.1]"),
    ],
)
def test_the_host_introduces_itself_by_a_name_that_servers_accept(
    make_app: MakeApp,
    start: Callable[..., SmtpServer],
    monkeypatch: pytest.MonkeyPatch,
    own: str,
    settings: dict[str, str],
    expected: str,
) -> None:
    monkeypatch.setattr("socket.getfqdn", lambda: own)
    server = start()
    make_app(server, **settings)
    deliver_message(message())
    assert server.commands[0] == f"ehlo {expected}"


def test_a_forked_process_does_not_speak_over_its_parents_connection(
    make_app: MakeApp, start: Callable[..., SmtpServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    make_app(server)
    deliver_message(message())
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    deliver_message(message())
    assert server.connections == 2


def test_the_connection_can_be_checked_without_a_mail(make_app: MakeApp, start: Callable[..., SmtpServer]) -> None:
    server = start()
    make_app(server)
    assert check_connection() == f"localhost:{server.port}: 250 ok"
    server.stop()
    with pytest.raises(ServerUnreachableError, match="cannot use localhost"):
        check_connection()


def test_without_a_server_mails_go_to_the_development_inbox(
    make_app: MakeApp, start: Callable[..., SmtpServer], tmp_path: Path
) -> None:
    server = start()
    make_app()
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "port").write_text(str(server.port))
    deliver_message(message())
    assert len(server.received) == 1


def test_an_inbox_that_is_not_running_is_reported_and_waited_for_only_once(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "INBOX_WAIT_SECONDS", 0.1)
    make_app()
    for _ in range(2):
        with pytest.raises(ServerUnreachableError, match="the development inbox is not running"):
            deliver_message(message())
    assert smtp_settings().inbox_wait_seconds == 0


def test_production_without_a_server_sends_nowhere(make_app: MakeApp) -> None:
    environ = {
        "APP_ENV": "production",
        "PUBLIC_URL": "https://desk.example.org",
        "SECRET_KEY": "a-secret-key-that-is-only-good-for-tests",
        "MAIL_ENABLED": "false",
    }
    make_app(**environ)
    with pytest.raises(ServerUnreachableError, match="MAIL_SERVER is not set"):
        deliver_message(message())


def test_a_closed_connection_opens_again(make_app: MakeApp, start: Callable[..., SmtpServer]) -> None:
    server = start()
    make_app(server)
    with Connection(smtp_settings()) as connection:
        connection.deliver(message())
        connection.close()
        connection.deliver(message())
    assert server.connections == 2
    assert server.commands[-1].lower() == "quit"
