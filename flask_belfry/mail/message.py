"""Serializing a mail: headers and two alternative bodies, as bytes."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.header import Header
from email.utils import format_datetime, parseaddr
from functools import lru_cache
from secrets import token_hex

import flask_mail

from flask_belfry.core.clock import utc_now
from flask_belfry.mail.errors import PermanentMailError

LINE_CHARACTERS = 78  # RFC 5322, section 2.1.1
LONGEST_LINE = 998
# Longer words are encoded, because only encoded words can be split.
LONGEST_WORD = 70
_PLAIN = re.compile(r"[!-~]+(?: [!-~]+)*")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*")
# Headers with identifiers and URLs are not encoded (RFC 5322, section 3.6.4; RFC 2369, section 2).
_IDENTIFIERS = re.compile(r"(?i)references|in-reply-to|list-.*")


class OutgoingMessage(flask_mail.Message):
    """A mail with a text and an HTML body and a given Message-ID.

    Args:
        subject: one line.
        recipients: ASCII email addresses.
        text, html: the two bodies.
        message_id: with angle brackets.
        sender: an email address, with or without a name.
        extra_headers: by name; identifiers and URLs (References, List-*) must be ASCII.
        return_path: the email address that receives bounces; by default that of the sender.
        sent_at: the time in its header; by default that of its serialization.
    """

    def __init__(
        self,
        *,
        subject: str,
        recipients: Sequence[str],
        text: str,
        html: str,
        message_id: str,
        sender: str,
        extra_headers: Mapping[str, str] | None = None,
        return_path: str | None = None,
        sent_at: datetime | None = None,
    ) -> None:
        # Not super().__init__(): it generates a Message-ID, which looks up the host's name in DNS each time.
        self.subject = subject
        self.recipients = list(recipients)
        self.body = text
        self.sender = sender
        self.msgId = message_id
        # Attributes that Flask-Mail's methods read; our mails do not use them.
        vars(self).update(alts={}, cc=[], bcc=[], attachments=[], mail_options=[], rcpt_options=[])
        vars(self).update(reply_to=None, date=None, charset=None)
        self.extra_headers = dict(extra_headers or {})
        self.html = html
        self.return_path = return_path
        self.sent_at = sent_at

    @property
    def envelope_sender(self) -> str:
        """The email address that receives bounces."""
        return self.return_path or _parsed(str(self.sender))[1]

    def has_bad_headers(self) -> bool:
        """Return whether a header contains a line break, which would inject another header; folded subjects too."""
        extra = (self.extra_headers or {}).values()
        headers = (self.subject, str(self.sender), self.msgId, *map(str, self.recipients), *extra)
        return any(character in header for header in headers for character in "\r\n\0")

    def as_bytes(self) -> bytes:
        """Return the message in ASCII, with CRLF line ends.

        Raises:
            PermanentMailError: a header contains a line break, or a text is not valid Unicode.
        """
        if self.has_bad_headers():
            raise PermanentMailError("a header of the mail contains a line break")
        # "=_" does not occur in quoted-printable (RFC 2045, section 6.7), so the parts need not be searched for it.
        boundary = f"=_{token_hex(12)}"
        try:
            parts = [_part(self.body or "", "plain"), _part(self.html or "", "html")]
            headers = "".join(_folded(name, value) for name, value in self._headers(boundary).items())
            delimited = b"".join(b"\r\n--%b\r\n%b" % (boundary.encode(), part) for part in parts)
            return headers.encode("ascii") + delimited + f"\r\n--{boundary}--\r\n".encode()
        except UnicodeError as error:
            raise PermanentMailError(f"the mail is not valid Unicode: {error.reason}") from error  # pyright: ignore[reportAttributeAccessIssue]

    def _headers(self, boundary: str) -> dict[str, str]:
        name, email = _parsed(str(self.sender))
        return {
            "MIME-Version": "1.0",
            "Content-Type": f'multipart/alternative; boundary="{boundary}"',
            "Subject": _encoded_text("Subject", self.subject),
            "From": _mailbox("From", name, email),
            "To": ", ".join(map(str, self.recipients)),
            "Date": format_datetime(self.sent_at or utc_now()),
            "Message-ID": self.msgId,
            # RFC 3834: prevents automatic replies.
            "Auto-Submitted": "auto-generated",
            **{name: _extra(name, value) for name, value in (self.extra_headers or {}).items()},
        }


def _encoded_text(header: str, text: str) -> str:
    """Return the value of an unstructured header (RFC 5322, section 3.6.5), as encoded words where it is needed."""
    return text if _is_literal(text) else _encoded_words(header, text)


def _mailbox(header: str, name: str, email: str) -> str:
    if not name:
        return email
    if not _is_literal(name):
        name = _encoded_words(header, name)
    elif not _ATOMS.fullmatch(name):
        escaped = name.replace("\\", r"\\").replace('"', r"\"")
        name = f'"{escaped}"'
    return f"{name} <{email}>"


def _extra(header: str, value: str) -> str:
    named = re.fullmatch(r"(.*?) *<([^<>]*)>", value) if header.lower() == "list-id" else None
    if named:
        return _mailbox(header, named[1], named[2])
    return value if _IDENTIFIERS.fullmatch(header) else _encoded_text(header, value)


def _is_literal(text: str) -> bool:
    # Text that looks like an encoded word would be decoded.
    is_plain = text == "" or (_PLAIN.fullmatch(text) is not None and "=?" not in text)
    return is_plain and all(len(word) <= LONGEST_WORD for word in text.split(" "))


def _encoded_words(header: str, text: str) -> str:
    return " ".join(Header(text, "utf-8", header_name=header).encode().split())


def _part(text: str, subtype: str) -> bytes:
    # Quoted-printable keeps every line under 998 bytes (RFC 5322, section 2.1.1), unlike inlined HTML, and needs no
    # 8BITMIME. binascii is written in C. The package email takes longer for this than all other work on a mail.
    header = f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n'
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return header.encode() + binascii.b2a_qp(lines.encode(), istext=True).replace(b"\n", b"\r\n")


def _folded(name: str, value: str) -> str:
    """Return a header whose value is encoded already, folded at spaces. Raises PermanentMailError."""
    lines = [f"{name}:"]
    for word in value.split(" "):
        if len(lines[-1]) + 1 + len(word) > LINE_CHARACTERS and not lines[-1].endswith(":"):
            lines.append("")
        lines[-1] += f" {word}"
    if any(len(line) > LONGEST_LINE for line in lines):
        raise PermanentMailError(f"the header {name} contains a word that is too long for a line")
    return "\r\n".join([*lines, ""])


@lru_cache(maxsize=100)
def _parsed(sender: str) -> tuple[str, str]:
    """Return name and email address of a sender, which most mails share."""
    return parseaddr(sender)
