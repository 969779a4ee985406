"""Connections to the SMTP server: those of Flask-Mail, with timeouts, verified certificates, and a pool per process."""

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
from flask_belfry.mail import inbox_store, smtp_session
from flask_belfry.mail.errors import MailError, ServerTimeoutError, ServerUnreachableError, TemporaryMailError
from flask_belfry.mail.message import OutgoingMessage
from flask_belfry.mail.pool import SessionPool
from flask_belfry.mail.smtp_session import Receipt
from flask_belfry.mail.waves import Waves

# Temporary, for the session: 432 and 454 after AUTH (RFC 4954, section 6), 454 after STARTTLS (RFC 3207, section 4).
BUSY_CODES = frozenset({smtp_session.CLOSING, 432, 454})
BUSY_PAUSES_SECONDS = (0.1, 0.3, 0.6)
# AUTH LOGIN needs two; the limit ends an endless exchange.
MAX_CHALLENGES = 5
# The wait for the reply to QUIT, which does not matter.
QUIT_SECONDS = 1.0
# The first mail waits for the development inbox to start.
INBOX_WAIT_SECONDS = 10.0


class SmtpSettings(flask_mail._Mail):  # noqa: SLF001 - the class of Flask-Mail's state has no public name
    """The settings of the connection to the SMTP server, read once per application."""

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
        self.inbox: Path | None = None if config["APP_ENV"] == "production" else instance_path / "inbox"
        self.inbox_wait_seconds = INBOX_WAIT_SECONDS
        self._config = config
        self.pool = SessionPool(lambda: Connection(self))
        self.waves = Waves()

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """Verifies names and certificates, with the system's authorities and those of MAIL_CA_FILE."""
        context = ssl.create_default_context()
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        return context

    @cached_property
    def ehlo_name(self) -> str | None:
        """The name for EHLO: MAIL_EHLO_NAME, or the first public name of this host that is known; None without one."""
        if self._config["MAIL_EHLO_NAME"]:
            return self._config["MAIL_EHLO_NAME"]
        # smtplib would look up the host's name in DNS for every connection.
        names = (
            socket.getfqdn(),
            urlsplit(self._config["PUBLIC_URL"]).hostname or "",
            self._config["MAIL_MESSAGE_ID_DOMAIN"],
        )
        return next((public for name in names if (public := public_domain(name))), None)

    def host_and_port(self) -> tuple[str, int]:
        """Return host and port of the server, or of the development inbox. Raises ServerUnreachableError."""
        if self.server:
            return self.server, int(self.port or 0)
        if self.inbox is None:
            raise ServerUnreachableError("MAIL_SERVER is not set: mail cannot be sent")
        wait_seconds, self.inbox_wait_seconds = self.inbox_wait_seconds, 0.0
        port = inbox_store.read_port(self.inbox, wait_seconds)
        if port is None:
            raise ServerUnreachableError("the development inbox is not running: `make run` starts it")
        return "127.0.0.1", port


class _Smtp(smtplib.SMTP):
    """smtplib's client with UTF-8 user names and passwords (RFC 4616, section 2); smtplib supports only ASCII."""

    def auth(
        self, mechanism: str, authobject: Callable[..., str], *, initial_response_ok: bool = True
    ) -> tuple[int, bytes]:
        """Run one mechanism."""
        first = authobject() if initial_response_ok else None
        self._auth_challenge_count = 0 if first is None else 1  # which smtplib's auth_login reads
        code, answer = self.docmd("AUTH", " ".join([mechanism, *([_encoded(first)] if first is not None else [])]))
        while code == 334 and self._auth_challenge_count < MAX_CHALLENGES:
            self._auth_challenge_count += 1
            code, answer = self.docmd(_encoded(authobject(base64.decodebytes(answer))))
        if 400 <= code < 500:  # temporary: another mechanism would fail too
            raise smtplib.SMTPResponseException(code, answer)
        if code not in (235, 503):
            raise smtplib.SMTPAuthenticationError(code, answer)
        return code, answer

    def auth_cram_md5(  # pyright: ignore[reportIncompatibleMethodOverride] - overloads in typeshed
        self, challenge: bytes | None = None
    ) -> str | None:
        """Return the response to a challenge (RFC 2195)."""
        if challenge is None:
            return None
        return f"{self.user} {hmac.new(self.password.encode(), challenge, 'md5').hexdigest()}"

    def greet(self) -> None:
        """Send EHLO, or HELO if the server does not support it."""
        code, answer = self.ehlo()
        if not 200 <= code < 300 and code != smtp_session.CLOSING:
            code, answer = self.helo()
        if not 200 <= code < 300:
            raise smtplib.SMTPHeloError(code, answer)


class _SmtpOverTls(_Smtp, smtplib.SMTP_SSL):  # pyright: ignore[reportIncompatibleMethodOverride] - overloads there
    """The same, over TLS from the start (port 465)."""


class Connection(flask_mail.Connection):
    """A connection that opens at its first use, and is replaced after it broke or the server closed the session."""

    def __init__(self, settings: SmtpSettings) -> None:
        super().__init__(settings)  # pyright: ignore[reportArgumentType]
        self._settings = settings
        self._sent_mails = 0
        self._used_at = 0.0
        self._process = os.getpid()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether the connection is open, as far as is known."""
        is_ours = self._process == os.getpid()  # a forked process must not use the parent's socket
        return self.host is not None and self.host.sock is not None and is_ours

    @property
    def idle_seconds(self) -> float:
        """The time since it was last used."""
        return time.monotonic() - self._used_at

    def open(self, *, is_only_one: bool = True) -> None:
        """Connect, unless the connection is open.

        Args:
            is_only_one: whether the process has no other session to wait for: a busy server is then tried again.

        Raises:
            ServerUnreachableError: the connection failed.
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
                self._process, self._sent_mails, self._used_at = os.getpid(), 0, time.monotonic()
                return

    def configure_host(self) -> smtplib.SMTP:
        """Connect, start TLS and log in, according to the settings. Raises ServerUnreachableError."""
        server, port = self._settings.host_and_port()
        try:
            return self._connect(server, port)
        except (smtplib.SMTPException, OSError, ValueError) as error:
            code = error.smtp_code if isinstance(error, smtplib.SMTPResponseException) else None
            raise ServerUnreachableError(f"cannot use {server}:{port}: {_reason(error)}", code) from error

    def send(self, message: flask_mail.Message, envelope_from: str | tuple[str, str] | None = None) -> None:
        """Send a message of Flask-Mail; raises as `deliver` does."""
        sender = flask_mail.sanitize_address(envelope_from or message.sender)
        recipients = [parseaddr(email)[1] for email in flask_mail.sanitize_addresses(message.send_to)]
        if message.has_bad_headers():
            raise flask_mail.BadHeaderError
        if not self._settings.suppress:
            self._transmit(parseaddr(sender)[1], recipients, message.as_bytes())
        email_dispatched.send(current_app._get_current_object(), message=message)  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]

    def deliver(self, message: OutgoingMessage) -> Receipt:
        """Send one mail to the server, regardless of MAIL_ENABLED.

        Raises:
            ServerUnreachableError: no session is available; at most the sender was transmitted.
            TemporaryMailError, PermanentMailError: the mail was not sent.
            UncertainMailError: the mail may have been sent.
        """
        recipients = [str(email) for email in message.recipients]
        return self._transmit(message.envelope_sender, recipients, message.as_bytes())

    def check(self) -> str:
        """Connect if needed and send NOOP. Raises ServerUnreachableError.

        Returns:
            the server's host, port and reply.
        """
        self.open()
        assert self.host is not None, "it is open"
        server, port = self._settings.host_and_port()
        try:
            code, text = self.host.noop()
        except (smtplib.SMTPException, OSError) as error:
            raise ServerUnreachableError(f"cannot use {server}:{port}: {_reason(error)}") from error
        return f"{server}:{port}: {code} {text.decode(errors='replace')}"

    def close(self) -> None:
        """Send QUIT and close, in whatever state the connection is."""
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
            return self._run_session(sender, recipients, content)
        except ServerTimeoutError:
            raise
        except TemporaryMailError as error:
            if error.code is not None and smtp_session.is_permanent(error.code):
                raise
            # A server may close a session at any time, or limit its mails (RFC 5321, section 4.5.3.1.10). A refusal in
            # a new session concerns the mail itself.
            if not self._sent_mails and error.code != smtp_session.CLOSING:
                raise
        self.close()
        self.open()
        return self._run_session(sender, recipients, content)

    def _run_session(self, sender: str, recipients: list[str], content: bytes) -> Receipt:
        assert self.host is not None, "it is open"
        try:
            smtp_session.mail_from(self.host, sender, len(content))
            refusals = smtp_session.rcpt_to(self.host, recipients)
            receipt = Receipt(smtp_session.send_data(self.host, content), refusals)
        except MailError:
            self._reset()
            raise
        except BaseException:
            # The time limit of the job can interrupt any command: the next mail needs a new session.
            self._abandon()
            raise
        self._sent_mails += 1
        self._used_at = time.monotonic()
        return receipt

    def _connect(self, server: str, port: int) -> smtplib.SMTP:
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
        """Reset the session after a failure; close the connection if that fails."""
        try:
            is_reset = self.host is not None and self.host.sock is not None and self.host.rset()[0] == 250
        except (smtplib.SMTPException, OSError):
            is_reset = False
        if is_reset:
            self._used_at = time.monotonic()
        else:
            self._abandon()

    def _abandon(self) -> None:
        host, self.host = self.host, None
        if host is not None:
            host.close()

    def __del__(self) -> None:
        # In a forked process, which inherited the pool, or without an owner.
        self._abandon()


class Mail(flask_mail.Mail):
    """Flask-Mail's extension with our connections."""

    def init_app(self, app: Flask) -> SmtpSettings:
        """Read the settings of `app`, without connecting."""
        settings = SmtpSettings(app.config, Path(app.instance_path))
        app.extensions["mail"] = settings
        return settings

    def connect(self) -> Connection:
        """Return a connection for a `with` block of the caller."""
        return Connection(smtp_settings())


mail = Mail()


def smtp_settings() -> SmtpSettings:
    """Return the SMTP settings of the current application."""
    return current_app.extensions["mail"]


def lend_connection(should_stop: Callable[[], bool] = lambda: False) -> AbstractContextManager[Connection]:
    """Lend an open connection of the current application's pool to a block; see `SessionPool.lend`."""
    return smtp_settings().pool.lend(should_stop)


def deliver_message(message: OutgoingMessage) -> Receipt:
    """Send one mail over the connection that was lent to this thread, or over one lent for it. Raises as
    `Connection.deliver` does."""
    with lend_connection() as connection:
        return connection.deliver(message)


def is_server_working() -> bool:
    """Return whether another thread of this process has an open connection in use."""
    return smtp_settings().pool.is_working


def close_connections() -> None:
    """Close the idle connections of the current application; called when a worker stops."""
    smtp_settings().pool.close()


def _reason(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        text = error.smtp_error
        return f"{error.smtp_code} {text.decode(errors='replace') if isinstance(text, bytes) else text}"
    return str(error) or type(error).__name__


def _is_busy(error: ServerUnreachableError) -> bool:
    return error.code in BUSY_CODES or isinstance(error.__cause__, ConnectionRefusedError)


def _own_literal(host: smtplib.SMTP) -> str:
    assert host.sock is not None, "it is connected"
    return address_literal(host.sock.getsockname()[0].partition("%")[0])


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")
