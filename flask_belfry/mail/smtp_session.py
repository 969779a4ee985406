"""The SMTP commands of one mail (RFC 5321, section 4.1), each separate so that every failure is known by its phase.

`smtplib.SMTP.sendmail` runs them in one call, and does not report at which one it failed or whether the mail may have
been sent.
"""

from __future__ import annotations

import re
import smtplib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from flask_belfry.db.columns import storable
from flask_belfry.mail.errors import (
    AddressRefusedError,
    MailError,
    PermanentMailError,
    SenderRefusedError,
    ServerTimeoutError,
    SessionRefusedError,
    TemporaryMailError,
    UncertainMailError,
)
from flask_belfry.mail.status_codes import Fault, enhanced_code, fault_of

CLOSING = 421
# Wrong or missing credentials (RFC 4954, section 6): a fault of the settings and not of the mail, hence temporary.
LOGIN_CODES = frozenset({530, 534, 535, 538})
# Replies to MAIL FROM that do not concern this mail. Not 452: it may concern the size (RFC 1870, section 6.1).
NO_SESSION_CODES = frozenset({CLOSING, 450, 451, 454})
_LEADING_PERIOD = re.compile(rb"(?m)^\.")

Reply = tuple[int, bytes]


@dataclass(frozen=True)
class Refusal:
    """A recipient that the server refused."""

    email: str
    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.email}: {self.code} {self.text}"


@dataclass(frozen=True)
class Receipt:
    """The server accepted the mail: its reply, and the recipients that it refused."""

    reply: str
    refusals: tuple[Refusal, ...] = ()


def mail_from(host: smtplib.SMTP, sender: str, size_bytes: int) -> None:
    """Send MAIL FROM: the first step, before which the server knows nothing of this mail.

    Raises:
        SessionRefusedError: the server accepts no mail in this session.
        TemporaryMailError, PermanentMailError: the server refused the sender, or the connection broke.
    """
    options = [f"SIZE={size_bytes}"] if host.has_extn("size") else []
    code, text = _command("the sender", lambda: host.mail(sender, options))
    if code != 250:
        error = refusal_error("the sender", code, text, is_of_recipient=False)
        raise SessionRefusedError(error.detail, error.code) if code in NO_SESSION_CODES else error


def rcpt_to(host: smtplib.SMTP, recipients: Sequence[str]) -> tuple[Refusal, ...]:
    """Send RCPT TO for each recipient, an ASCII email address; the server must accept at least one.

    Returns:
        the refused recipients.

    Raises:
        TemporaryMailError, PermanentMailError: the server refused all recipients, or the connection broke.
    """
    refusals: list[Refusal] = []
    for email in recipients:
        code, text = _command("a recipient", lambda email=email: host.rcpt(email))
        if code == CLOSING:
            raise refusal_error("a recipient", code, text)
        if code not in (250, 251):
            refusals.append(Refusal(email, code, _readable(text)))
    if len(refusals) == len(recipients):
        raise _all_refused(refusals)
    return tuple(refusals)


def send_data(host: smtplib.SMTP, content: bytes) -> str:
    """Send DATA and the message, which has CRLF line ends.

    Returns:
        the server's reply to the complete mail.

    Raises:
        TemporaryMailError, PermanentMailError: the mail was not sent.
        UncertainMailError: the mail was sent completely, and no valid reply arrived.
    """
    code, text = _command("DATA", lambda: host.docmd("DATA"))
    if code != 354:
        raise refusal_error("DATA", code, text)
    with _translated("the content"):
        # The final dot is in the last bytes of this one call: if it fails, the server has not received the dot.
        host.send(_with_final_dot(content))
    try:
        code, text = host.getreply()
    except (smtplib.SMTPException, OSError) as error:
        raise UncertainMailError(f"the mail was sent and no reply arrived: {error}") from error
    if code < 200 or code >= 600:
        host.close()
        raise UncertainMailError(f"the mail was sent and the reply was not valid SMTP: {_readable(text)}")
    if code >= 300:
        raise refusal_error("the mail", code, text)
    return f"{code} {_readable(text)}"


def refusal_error(what: str, code: int, text: bytes, *, is_of_recipient: bool = True) -> MailError:
    """Return the error for a reply that refuses `what`: permanent for 5xx codes, unless the enhanced status code says
    that it may pass, else temporary.

    Args:
        what: what the server refused.
        code, text: the reply.
        is_of_recipient: whether the server knew the recipient, so that the reply can be about that email address.
    """
    readable = _readable(text)
    status_code = enhanced_code(code, readable)
    return _class_of(code, fault_of(status_code), is_of_recipient)(
        f"the server refused {what}: {code} {readable}", code, status_code
    )


def is_permanent(code: int) -> bool:
    """Return whether a reply code is permanent: a new session would change nothing."""
    return 500 <= code < 600 and code not in LOGIN_CODES


def _class_of(code: int, fault: Fault, is_of_recipient: bool) -> type[MailError]:
    if code in LOGIN_CODES:
        return TemporaryMailError
    if fault is Fault.SENDER:
        return SenderRefusedError
    if fault is Fault.ADDRESS and is_of_recipient:
        return AddressRefusedError
    return PermanentMailError if is_permanent(code) and fault is not Fault.MAILBOX_FULL else TemporaryMailError


def _all_refused(refusals: Sequence[Refusal]) -> MailError:
    # If one refusal is temporary, the mail is retried.
    first = min(refusals, key=lambda refusal: refusal.code)
    error = refusal_error("the recipient", first.code, first.text.encode())
    error.detail = f"the server refused {'; '.join(map(str, refusals))}"
    return error


def _command(what: str, command: Callable[[], Reply]) -> Reply:
    with _translated(what):
        return command()


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise _broken(what, error) from error


def _broken(what: str, error: Exception) -> MailError:
    if isinstance(error, ValueError):  # smtplib refuses line breaks and characters that the server does not support
        return PermanentMailError(f"{what} cannot be sent over SMTP")
    # smtplib raises SMTPServerDisconnected while it handles the real cause.
    if isinstance(error.__context__, TimeoutError) or isinstance(error, TimeoutError):
        return ServerTimeoutError(f"the server did not reply in time after {what}")
    return TemporaryMailError(f"the connection broke after {what}: {error}")


def _with_final_dot(content: bytes) -> bytes:
    stuffed = _LEADING_PERIOD.sub(b"..", content)
    return stuffed + (b".\r\n" if stuffed.endswith(b"\r\n") else b"\r\n.\r\n")


def _readable(text: bytes) -> str:
    return " ".join(storable(text.decode("utf-8", "replace")).split())
