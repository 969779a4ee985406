"""Connections to the SMTP server: Flask-Mail's, with a timeout, verified certificates, and shared by the threads."""

from __future__ import annotations

import base64
import hmac
import os
import smtplib
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from email.utils import parseaddr
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import flask_mail
from flask import Flask, current_app
from flask_mail import email_dispatched

from flask_belfry.core.settings.casts import address_literal, public_domain
from flask_belfry.mail import smtp_session as dialogue
from flask_belfry.mail.errors import MailError, ServerTimeoutError, ServerUnreachableError, TemporaryMailError
from flask_belfry.mail.message import OutgoingMessage
from flask_belfry.mail.pool import SessionPool
from flask_belfry.mail.smtp_session import Receipt

# Not now, for this session: 432 and 454 after AUTH (RFC 4954, section 6), 454 after STARTTLS (RFC 3207, section 4).
BUSY_CODES = frozenset({dialogue.CLOSING, 432, 454})
BUSY_PAUSES_SECONDS = (0.1, 0.3, 0.6)
# LOGIN asks two questions; who asks without end is not a mail server.
MAX_CHALLENGES = 5
# A farewell is a courtesy: nobody waits long for its answer.
QUIT_SECONDS = 1.0
INBOX_WAIT_SECONDS = 10.0
INBOX_POLL_SECONDS = 0.05


class SmtpSettings(flask_mail._Mail):  # noqa: SLF001 - the class of Flask-Mail's state has no public name
    """Where and how to connect, read once from an application's settings."""

    def __init__(self, config: dict[str, Any], instance_path: Path) -> None:
        super().__init__(
            server=config["MAIL_SERVER"] or "",
            username=config["MAIL_USERNAME"],
            password=config["MAIL_PASSWORD"],
            port=config["MAIL_PORT"],
            use_tls=config["MAIL_USE_TLS"],
            use_ssl=config["MAIL_USE_SSL"],
            default_sender=config["MAIL_DEFAULT_SENDER"],
            debug=0,  # smtplib's debugging prints recipients and passwords
            max_emails=None,
            suppress=not config["MAIL_ENABLED"],
            ascii_attachments=False,
        )
        self.timeout_seconds: float = config["MAIL_TIMEOUT_SECONDS"]
        self.ca_file: Path | None = config["MAIL_CA_FILE"]
        self.inbox = None if config["APP_ENV"] == "production" else InboxAddress(instance_path / "inbox")
        self._config = config
        self.pool = SessionPool(lambda: Connection(self))

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """The system's authorities, and MAIL_CA_FILE beside them; names and certificates are verified."""
        context = ssl.create_default_context()
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        return context

    @cached_property
    def ehlo_name(self) -> str | None:
        """How this host introduces itself: MAIL_EHLO_NAME, or the first public name that is known; None without one."""
        if self._config["MAIL_EHLO_NAME"]:
            return self._config["MAIL_EHLO_NAME"]
        # smtplib would ask DNS for the host's name at every connection.
        names = (
            socket.getfqdn(),
            urlsplit(self._config["PUBLIC_URL"]).hostname or "",
            self._config["MAIL_MESSAGE_ID_DOMAIN"],
        )
        return next((public for name in names if (public := public_domain(name))), None)

    def address(self) -> tuple[str, int]:
        """Host and port of the server, or of the development inbox. Raises ServerUnreachableError."""
        if self.server:
            return self.server, int(self.port or 0)
        if self.inbox is None:
            raise ServerUnreachableError("MAIL_SERVER is not set: there is nowhere to send mail to")
        return "127.0.0.1", self.inbox.port()


class InboxAddress:
    """Where the development inbox listens: it writes its port into a file while it does."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "port"
        self.wait_seconds = INBOX_WAIT_SECONDS

    def port(self) -> int:
        """Its port. The first time it is given a moment to start; raises ServerUnreachableError when it does not."""
        deadline = time.monotonic() + self.wait_seconds
        self.wait_seconds = 0.0
        while (port := self._read()) is None:
            if time.monotonic() >= deadline:
                raise ServerUnreachableError("the development inbox is not running: `make run` starts it")
            time.sleep(INBOX_POLL_SECONDS)
        return port

    def _read(self) -> int | None:
        try:
            return int(self._file.read_text())
        except (FileNotFoundError, ValueError):  # not there yet, or not written yet
            return None


class _Smtp(smtplib.SMTP):
    """smtplib's client, which logs in with names and passwords in UTF-8 (RFC 4616, section 2) and not in ASCII only."""

    def auth(
        self, mechanism: str, authobject: Callable[..., str], *, initial_response_ok: bool = True
    ) -> tuple[int, bytes]:
        """Speaks one mechanism to its end."""
        first = authobject() if initial_response_ok else None
        self._auth_challenge_count = 0 if first is None else 1  # which smtplib's auth_login reads
        code, answer = self.docmd("AUTH", " ".join([mechanism, *([_encoded(first)] if first is not None else [])]))
        while code == 334 and self._auth_challenge_count < MAX_CHALLENGES:
            self._auth_challenge_count += 1
            code, answer = self.docmd(_encoded(authobject(base64.decodebytes(answer))))
        if 400 <= code < 500:  # no other mechanism would fare better
            raise smtplib.SMTPResponseException(code, answer)
        if code not in (235, 503):
            raise smtplib.SMTPAuthenticationError(code, answer)
        return code, answer

    def auth_cram_md5(  # pyright: ignore[reportIncompatibleMethodOverride] - overloads in typeshed
        self, challenge: bytes | None = None
    ) -> str | None:
        """RFC 2195."""
        if challenge is None:
            return None
        return f"{self.user} {hmac.new(self.password.encode(), challenge, 'md5').hexdigest()}"

    def greet(self) -> None:
        """Introduces this host, by HELO where EHLO is not known."""
        code, answer = self.ehlo()
        if not 200 <= code < 300 and code != dialogue.CLOSING:
            code, answer = self.helo()
        if not 200 <= code < 300:
            raise smtplib.SMTPHeloError(code, answer)


class _SmtpOverTls(_Smtp, smtplib.SMTP_SSL):  # pyright: ignore[reportIncompatibleMethodOverride] - overloads there
    """The same over TLS from the first byte."""


class Connection(flask_mail.Connection):
    """A connection that opens when it is needed and is replaced when it broke or the server ended its session."""

    def __init__(self, settings: SmtpSettings) -> None:
        super().__init__(settings)  # pyright: ignore[reportArgumentType]
        self._settings = settings
        self._carried = 0
        self._used_at = 0.0
        self._process = os.getpid()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether the connection stands, as far as is known."""
        is_ours = self._process == os.getpid()  # after a fork two processes would speak over one socket
        return self.host is not None and self.host.sock is not None and is_ours

    @property
    def idle_seconds(self) -> float:
        """How long ago it carried something."""
        return time.monotonic() - self._used_at

    def open(self, *, is_only_one: bool = True) -> None:
        """Connects, unless it is open.

        Args:
            is_only_one: a server that admits no more is asked again after a moment; there are no others to wait for.

        Raises:
            ServerUnreachableError: no connection can be used.
        """
        if self.is_open:
            return
        self._abandon()
        for pause_seconds in (*(BUSY_PAUSES_SECONDS if is_only_one else ()), None):
            try:
                self.host = self.configure_host()
            except ServerUnreachableError as error:
                if pause_seconds is None or not _is_busy(error):
                    raise
                time.sleep(pause_seconds)
            else:
                self._process, self._carried, self._used_at = os.getpid(), 0, time.monotonic()
                return

    def configure_host(self) -> smtplib.SMTP:
        """Connects, turns to TLS and logs in, as the settings say. Raises ServerUnreachableError."""
        server, port = self._settings.address()
        try:
            return self._connected(server, port)
        except (smtplib.SMTPException, OSError, ValueError) as error:
            code = error.smtp_code if isinstance(error, smtplib.SMTPResponseException) else None
            raise ServerUnreachableError(f"cannot use {server}:{port}: {_reason(error)}", code) from error

    def send(self, message: flask_mail.Message, envelope_from: str | tuple[str, str] | None = None) -> None:
        """Sends a message of Flask-Mail's; see `deliver`."""
        sender = flask_mail.sanitize_address(envelope_from or message.sender)
        recipients = [parseaddr(address)[1] for address in flask_mail.sanitize_addresses(message.send_to)]
        if message.has_bad_headers():
            raise flask_mail.BadHeaderError
        if not self._settings.suppress:
            self._transmit(parseaddr(sender)[1], recipients, message.as_bytes())
        email_dispatched.send(current_app._get_current_object(), message=message)  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]

    def deliver(self, message: OutgoingMessage) -> Receipt:
        """Hands one mail to the server, whatever MAIL_ENABLED says.

        Raises:
            ServerUnreachableError: no session could be had: nothing of the mail but its sender has been said.
            TemporaryMailError, PermanentMailError: it did not leave.
            UncertainMailError: it may have left.
        """
        recipients = [str(address) for address in message.recipients]
        return self._transmit(message.envelope_sender, recipients, message.as_bytes())

    def check(self) -> str:
        """Connects if needed and asks for a sign of life. Raises ServerUnreachableError.

        Returns:
            the server's address and its answer.
        """
        self.open()
        assert self.host is not None, "it is open"
        server, port = self._settings.address()
        try:
            code, text = self.host.noop()
        except (smtplib.SMTPException, OSError) as error:
            raise ServerUnreachableError(f"cannot use {server}:{port}: {_reason(error)}") from error
        return f"{server}:{port}: {code} {text.decode(errors='replace')}"

    def close(self) -> None:
        """Says goodbye and closes; open or not, broken or not."""
        host, self.host = self.host, None
        if host is None:
            return
        with suppress(smtplib.SMTPException, OSError):
            if host.sock is not None and self._process == os.getpid():
                host.sock.settimeout(QUIT_SECONDS)
                host.quit()
        host.close()

    def _transmit(self, sender: str, recipients: list[str], content: bytes) -> Receipt:
        self.open()
        try:
            return self._hand_over(sender, recipients, content)
        except ServerTimeoutError:
            raise
        except TemporaryMailError as error:
            # A server may end a session at any time, or take no more mails in it (RFC 5321, section 4.5.3.1.10). What
            # it refuses in a new one is refused for the mail's own sake.
            if not self._carried and error.code != dialogue.CLOSING:
                raise
        self.close()
        self.open()
        return self._hand_over(sender, recipients, content)

    def _hand_over(self, sender: str, recipients: list[str], content: bytes) -> Receipt:
        assert self.host is not None, "it is open"
        try:
            dialogue.begin(self.host, sender, len(content))
            receipt = dialogue.send_data(self.host, recipients, content)
        except MailError:
            self._reset()
            raise
        except BaseException:
            # A timeout of the job strikes anywhere: the next mail must not find half a dialogue.
            self._abandon()
            raise
        self._carried += 1
        self._used_at = time.monotonic()
        return receipt

    def _connected(self, server: str, port: int) -> smtplib.SMTP:
        settings = self._settings
        options: dict[str, Any] = {"local_hostname": "", "timeout": settings.timeout_seconds}
        if settings.use_ssl:
            host = _SmtpOverTls(server, port, context=settings.tls, **options)
        else:
            host = _Smtp(server, port, **options)
        try:
            self._introduce(host)
        except BaseException:
            host.close()
            raise
        return host

    def _introduce(self, host: _Smtp) -> None:
        settings = self._settings
        host.local_hostname = settings.ehlo_name or _own_literal(host)
        host.greet()
        if settings.use_tls:
            host.starttls(context=settings.tls)
            host.greet()
        if settings.username and settings.password:
            host.login(settings.username, settings.password)

    def _reset(self) -> None:
        """After a failure: the dialogue is taken back, or the connection given up when that cannot be."""
        if self.host is None or self.host.sock is None or not _resets(self.host):
            self._abandon()
        else:
            self._used_at = time.monotonic()

    def _abandon(self) -> None:
        host, self.host = self.host, None
        if host is not None:
            host.close()

    def __del__(self) -> None:
        # Its pool was inherited by a fork, or its owner has lost it.
        self._abandon()


class Mail(flask_mail.Mail):
    """Flask-Mail's extension over connections that time out, verify, and say what went wrong."""

    def init_app(self, app: Flask) -> SmtpSettings:
        """Reads the settings of `app`; connects to nothing."""
        settings = SmtpSettings(app.config, Path(app.instance_path))
        app.extensions["mail"] = settings
        return settings

    def connect(self) -> Connection:
        """A connection of the caller's own, for a `with` block."""
        return Connection(smtp_settings())


mail = Mail()


def smtp_settings() -> SmtpSettings:
    """The SMTP settings of the current application."""
    return current_app.extensions["mail"]


def lend_connection(should_stop: Callable[[], bool] = lambda: False) -> AbstractContextManager[Connection]:
    """An open connection of the current application for a block; see `SessionPool.lend`."""
    return smtp_settings().pool.lend(should_stop)


def deliver_message(message: OutgoingMessage) -> Receipt:
    """Hands one mail to the server over the connection that this thread was lent, or one for this mail; raises as
    `Connection.deliver` does."""
    with lend_connection() as connection:
        return connection.deliver(message)


def is_server_working() -> bool:
    """Whether another thread of this process is sending over a connection."""
    return smtp_settings().pool.is_working


def close_connections() -> None:
    """Closes the connections of the current application that are not in use: called when a worker stops."""
    smtp_settings().pool.close()


def _resets(host: smtplib.SMTP) -> bool:
    try:
        return host.rset()[0] == 250
    except (smtplib.SMTPException, OSError):
        return False


def _reason(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        text = error.smtp_error
        words = text.decode(errors="replace") if isinstance(text, bytes) else text
        return f"{error.smtp_code} {words}"
    return str(error) or type(error).__name__


def _is_busy(error: ServerUnreachableError) -> bool:
    return error.code in BUSY_CODES or isinstance(error.__cause__, ConnectionRefusedError)


def _own_literal(host: smtplib.SMTP) -> str:
    assert host.sock is not None, "it is connected"
    return address_literal(host.sock.getsockname()[0].partition("%")[0])


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")
