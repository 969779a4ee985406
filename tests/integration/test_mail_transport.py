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
from app.mail import PermanentMailError, ServerUnreachableError, TemporaryMailError, check_connection, close_connections
from app.mail import transport as transport_module
from app.mail.message import OutgoingMessage
from app.mail.transport import Connection, deliver_message, smtp_settings
from tests.smtp import CERTIFICATE, SmtpServer

MakeApp = Callable[..., Flask]


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    """Makes an application with these settings, and stays in its context."""
    contexts: list[Any] = []

    def make(server: SmtpServer | None = None, **environ: str) -> Flask:
        base = {"APP_ENV": "testing", "DATABASE_URL": "sqlite://", "REDIS_URL": "redis://127.0.0.1:1"}
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
def test_a_certificate_that_nobody_vouches_for_is_refused(
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


def test_each_thread_keeps_a_connection_that_ends_with_it(make_app: MakeApp, start: Callable[..., SmtpServer]) -> None:
    server = start()
    app = make_app(server)

    def send_two() -> None:
        with app.app_context():
            deliver_message(message())
            deliver_message(message())

    threads = [threading.Thread(target=send_two) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(server.received), server.connections) == (6, 3)
    assert len(smtp_settings().kept._all) == 0


def test_an_idle_connection_is_asked_before_it_is_trusted(
    make_app: MakeApp, start: Callable[..., SmtpServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    make_app(server)
    deliver_message(message())
    monkeypatch.setattr(transport_module, "IDLE_SECONDS", 0.0)
    deliver_message(message())
    assert "noop" in server.commands
    server.cut_connections()
    deliver_message(message())
    assert (len(server.received), server.connections) == (3, 2)


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


def test_an_inbox_that_is_not_running_is_told_and_waited_for_only_once(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "INBOX_WAIT_SECONDS", 0.1)
    make_app()
    for _ in range(2):
        with pytest.raises(ServerUnreachableError, match="the development inbox is not running"):
            deliver_message(message())
    assert smtp_settings().inbox is not None
    assert smtp_settings().inbox._wait_seconds == 0


def test_production_without_a_server_sends_nowhere(make_app: MakeApp) -> None:
    environ = {
        "APP_ENV": "production",
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
