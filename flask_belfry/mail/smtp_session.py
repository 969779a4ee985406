"""One mail's SMTP dialogue, step by step, so that every failure is known by its phase (RFC 5321, section 4.1).

smtplib.sendmail does the same in one call, and tells neither whether the mail may have left nor what went wrong when.
"""

from __future__ import annotations

import re
import smtplib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from flask_belfry.db.columns import storable
from flask_belfry.mail.errors import (
    MailError,
    PermanentMailError,
    ServerTimeoutError,
    SessionRefusedError,
    TemporaryMailError,
    UncertainMailError,
)

CLOSING = 421
# Wrong or missing credentials (RFC 4954, section 6): about us and not about this mail, so they may be mended.
LOGIN_CODES = frozenset({530, 534, 535, 538})
# Of the mail only its size is known when the sender is named. 452 may be about that (RFC 1870, section 6.1).
NO_SESSION_CODES = frozenset({CLOSING, 450, 451, 454})
_LEADING_PERIOD = re.compile(rb"(?m)^\.")

Answer = tuple[int, bytes]


@dataclass(frozen=True)
class Refusal:
    """A recipient that the server refused."""

    address: str
    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.address}: {self.code} {self.text}"


@dataclass(frozen=True)
class Receipt:
    """The server has taken the mail: its last words, and the recipients that it refused before."""

    answer: str
    refusals: tuple[Refusal, ...] = ()


def begin(host: smtplib.SMTP, sender: str, size_bytes: int) -> None:
    """Names the sender: the first step, before which nothing of this mail is known to the server.

    Raises:
        SessionRefusedError: the server accepts no mail in this session.
        TemporaryMailError, PermanentMailError: the server refused, or is gone.
    """
    options = [f"SIZE={size_bytes}"] if host.has_extn("size") else []
    answer = _ask("the sender", lambda: host.mail(sender, options))
    if answer[0] != 250:
        error = refusal_error("the sender", *answer)
        raise SessionRefusedError(error.detail, error.code) if error.code in NO_SESSION_CODES else error


def send_data(host: smtplib.SMTP, recipients: Sequence[str], content: bytes) -> Receipt:
    """Names the recipients and hands over the mail, after `begin`.

    Args:
        recipients: ASCII addresses; it is enough that the server takes one of them.
        content: the message with CRLF line ends.

    Raises:
        TemporaryMailError, PermanentMailError: it did not leave.
        UncertainMailError: the answer to the whole mail never came.
    """
    refusals = _name_recipients(host, recipients)
    answer = _ask("DATA", lambda: host.docmd("DATA"))
    if answer[0] != 354:
        raise refusal_error("DATA", *answer)
    with _translated("the mail's content"):
        # One call: its last bytes are the final dot, so a failure in here means that the dot was not handed on.
        host.send(_with_final_dot(content))
    return Receipt(_final_answer(host), refusals)


def refusal_error(what: str, code: int, text: bytes) -> MailError:
    """The error for an answer that refuses `what`: a 5xx stays, everything else may pass."""
    detail = f"the server refused {what}: {code} {_readable(text)}"
    if 500 <= code < 600 and code not in LOGIN_CODES:
        return PermanentMailError(detail, code)
    return TemporaryMailError(detail, code)


def _name_recipients(host: smtplib.SMTP, recipients: Sequence[str]) -> tuple[Refusal, ...]:
    refusals: list[Refusal] = []
    for address in recipients:
        code, text = _ask("a recipient", lambda address=address: host.rcpt(address))
        if code == CLOSING:
            raise refusal_error("a recipient", code, text)
        if code not in (250, 251):
            refusals.append(Refusal(address, code, _readable(text)))
    if len(refusals) == len(recipients):
        raise _all_refused(refusals)
    return tuple(refusals)


def _all_refused(refusals: Sequence[Refusal]) -> MailError:
    # While one of them may still be taken another time, the mail is worth another attempt.
    first = min(refusals, key=lambda refusal: refusal.code)
    error = refusal_error("the recipient", first.code, first.text.encode())
    error.detail = f"the server refused {'; '.join(map(str, refusals))}"
    return error


def _final_answer(host: smtplib.SMTP) -> str:
    try:
        code, text = host.getreply()
    except (smtplib.SMTPException, OSError) as error:
        raise UncertainMailError(f"the mail was handed over and no answer came: {error}") from error
    if code < 200 or code >= 600:
        host.close()
        raise UncertainMailError(f"the mail was handed over and the answer was none of SMTP: {_readable(text)}")
    if code >= 300:
        raise refusal_error("the mail", code, text)
    return f"{code} {_readable(text)}"


def _ask(what: str, command: Callable[[], Answer]) -> Answer:
    with _translated(what):
        return command()


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise _broken(what, error) from error


def _broken(what: str, error: Exception) -> MailError:
    if isinstance(error, ValueError):  # smtplib refuses line breaks and letters that the server could not read
        return PermanentMailError(f"{what} cannot be said in SMTP")
    # smtplib raises SMTPServerDisconnected while it handles the real cause.
    if isinstance(error.__context__, TimeoutError) or isinstance(error, TimeoutError):
        return ServerTimeoutError(f"the server said nothing after {what}")
    return TemporaryMailError(f"the connection broke after {what}: {error}")


def _with_final_dot(content: bytes) -> bytes:
    stuffed = _LEADING_PERIOD.sub(b"..", content)
    return stuffed + (b".\r\n" if stuffed.endswith(b"\r\n") else b"\r\n.\r\n")


def _readable(text: bytes) -> str:
    return " ".join(storable(text.decode("utf-8", "replace")).split())
