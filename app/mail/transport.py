"""Connections to the SMTP server: Flask-Mail's, with a timeout, verified certificates, and one kept open per thread."""

from __future__ import annotations

import os
import smtplib
import socket
import ssl
import threading
import time
from contextlib import suppress
from email.utils import parseaddr
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from weakref import WeakSet

import flask_mail
from flask import Flask, current_app
from flask_mail import email_dispatched

from app.mail import dialogue
from app.mail.dialogue import Receipt
from app.mail.errors import MailError, ServerUnreachableError, SilentServerError, TemporaryMailError
from app.mail.message import OutgoingMessage

# A connection that lay idle for longer is asked whether it still stands before a mail is trusted to it.
IDLE_SECONDS = 5.0
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
        self.kept = KeptConnections(self)

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """The system's authorities, and MAIL_CA_FILE beside them; names and certificates are verified."""
        context = ssl.create_default_context()
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        return context

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
        self._wait_seconds = INBOX_WAIT_SECONDS

    def port(self) -> int:
        """Its port. The first time it is given a moment to start; raises ServerUnreachableError when it does not."""
        deadline = time.monotonic() + self._wait_seconds
        self._wait_seconds = 0.0
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


class Connection(flask_mail.Connection):
    """A connection that opens when it is needed, is checked when it lay idle, and is replaced when it broke."""

    def __init__(self, settings: SmtpSettings) -> None:
        super().__init__(settings)  # pyright: ignore[reportArgumentType]
        self._settings = settings
        self._used_at = 0.0
        self._process = os.getpid()

    def __exit__(self, *_: object) -> None:
        self.close()

    def configure_host(self) -> smtplib.SMTP:
        """Connects, turns to TLS and logs in, as the settings say. Raises ServerUnreachableError."""
        server, port = self._settings.address()
        try:
            return self._connected(server, port)
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise ServerUnreachableError(f"cannot use {server}:{port}: {_reason(error)}") from error

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
            ServerUnreachableError: no connection could be made.
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
        self._drop_when_stale(idle_seconds=0)
        host = self._open_host()
        server, port = self._settings.address()
        try:
            code, text = host.noop()
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
        self._drop_when_stale(IDLE_SECONDS)
        try:
            host = self._begin(sender, len(content))
            receipt = dialogue.hand_over(host, recipients, content)
        except MailError:
            self._reset()
            raise
        except BaseException:
            # A timeout of the job strikes anywhere: the next mail must not find half a dialogue.
            self._abandon()
            raise
        self._used_at = time.monotonic()
        return receipt

    def _begin(self, sender: str, size_bytes: int) -> smtplib.SMTP:
        was_kept = self.host is not None
        host = self._open_host()
        try:
            dialogue.begin(host, sender, size_bytes)
        except SilentServerError:
            raise
        except TemporaryMailError as error:
            # A server may end a kept connection at any time, and nothing of this mail has been said yet.
            if not was_kept or (host.sock is not None and error.code != dialogue.CLOSING):
                raise
            self._abandon()
            host = self._open_host()
            dialogue.begin(host, sender, size_bytes)
        return host

    def _open_host(self) -> smtplib.SMTP:
        if self.host is None:
            self.host = self.configure_host()
            self._process = os.getpid()
        return self.host

    def _connected(self, server: str, port: int) -> smtplib.SMTP:
        settings = self._settings
        options: dict[str, Any] = {"local_hostname": _own_name(), "timeout": settings.timeout_seconds}
        if settings.use_ssl:
            host = smtplib.SMTP_SSL(server, port, context=settings.tls, **options)
        else:
            host = smtplib.SMTP(server, port, **options)
        try:
            self._introduce(host)
        except BaseException:
            host.close()
            raise
        return host

    def _introduce(self, host: smtplib.SMTP) -> None:
        settings = self._settings
        if settings.use_tls:
            host.starttls(context=settings.tls)
        host.ehlo_or_helo_if_needed()
        if settings.username and settings.password:
            host.login(settings.username, settings.password)

    def _drop_when_stale(self, idle_seconds: float) -> None:
        if self.host is None:
            return
        is_inherited = self._process != os.getpid()  # by a fork: two processes would speak over one socket
        is_idle = time.monotonic() - self._used_at >= idle_seconds
        if is_inherited or self.host.sock is None or (is_idle and not _answers(self.host)):
            self._abandon()

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
        # The thread that kept it has ended.
        self._abandon()


class KeptConnections:
    """One connection for each thread that sends mail."""

    def __init__(self, settings: SmtpSettings) -> None:
        self._settings = settings
        self._of_thread = threading.local()
        self._all: WeakSet[Connection] = WeakSet()
        self._lock = threading.Lock()

    def mine(self) -> Connection:
        """The connection of this thread; it is closed when the thread ends."""
        connection: Connection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = self._of_thread.connection = Connection(self._settings)
            with self._lock:
                self._all.add(connection)
        return connection

    def close(self) -> None:
        """Closes the connections of all threads, none of which may be sending."""
        with self._lock:
            connections = list(self._all)
        for connection in connections:
            connection.close()


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


def deliver_message(message: OutgoingMessage) -> Receipt:
    """Hands one mail to the server over this thread's kept connection; raises as `Connection.deliver` does."""
    return smtp_settings().kept.mine().deliver(message)


def close_connections() -> None:
    """Closes all kept connections of the current application: called when a worker stops."""
    smtp_settings().kept.close()


def _answers(host: smtplib.SMTP) -> bool:
    try:
        return host.noop()[0] == 250
    except (smtplib.SMTPException, OSError):
        return False


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


@cache
def _own_name() -> str:
    # smtplib would ask DNS for it at every connection.
    name = socket.getfqdn()
    return name if "." in name else "[127.0.0.1]"
