"""A mail on the wire: headers and two alternative bodies, as bytes."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from email.header import Header
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from email.policy import Compat32
from email.utils import format_datetime, parseaddr
from secrets import token_hex
from typing import Any

import flask_mail

from app.columns import utc_now
from app.mail.errors import PermanentMailError


class Wire(Compat32):
    """CRLF, and headers as they are where nothing is to be folded or encoded: the library's way through `Header`, or
    EmailPolicy's grammar, takes longer than all the rest of a mail."""

    LINE_CHARACTERS = 78  # RFC 5322, section 2.1.1

    def fold_binary(self, name: str, value: Any) -> bytes:
        """One header on the wire."""
        line = f"{name}: {value}"
        if isinstance(value, str) and len(line) <= self.LINE_CHARACTERS and line.isascii():
            return line.encode("ascii") + b"\r\n"
        return super().fold_binary(name, value)


WIRE = Wire(linesep="\r\n")


class OutgoingMessage(flask_mail.Message):
    """A mail with a text and an HTML alternative, and the Message-ID that it was given.

    Args:
        subject: one line.
        recipients: ASCII addresses.
        text, html: the two bodies.
        message_id: with its angle brackets.
        sender: an address, with or without a name.
    """

    def __init__(
        self, *, subject: str, recipients: Sequence[str], text: str, html: str, message_id: str, sender: str
    ) -> None:
        # Not super().__init__(): it makes a Message-ID of its own, which asks DNS for this host's name each time.
        self.subject = subject
        self.recipients = list(recipients)
        self.body = text
        self.sender = sender
        self.msgId = message_id
        # What Flask-Mail's methods read and our mails do not have.
        vars(self).update(alts={}, cc=[], bcc=[], attachments=[], mail_options=[], rcpt_options=[])
        vars(self).update(reply_to=None, date=None, charset=None, extra_headers=None)
        self.html = html

    @property
    def envelope_sender(self) -> str:
        """The bare address of the sender."""
        return parseaddr(str(self.sender))[1]

    def has_bad_headers(self) -> bool:
        """Whether a header would smuggle in another one. Folded subjects are refused too: nobody here folds."""
        headers = (self.subject, str(self.sender), self.msgId, *map(str, self.recipients))
        return any(character in header for header in headers for character in "\r\n\0")

    def as_bytes(self) -> bytes:
        """The message with CRLF line ends, all of it ASCII.

        Raises:
            PermanentMailError: a header holds a line break, or a text what is not Unicode.
        """
        if self.has_bad_headers():
            raise PermanentMailError("a header of the mail holds a line break: nothing was sent")
        try:
            return self._message().as_bytes(policy=WIRE)
        except UnicodeError as error:
            raise PermanentMailError(f"the mail is no valid Unicode text: {error.reason}") from error  # pyright: ignore[reportAttributeAccessIssue]

    def _message(self) -> MIMEMultipart:
        # "=_" cannot stand in quoted-printable (RFC 2045, section 6.7), so nobody need search the parts for it.
        message = MIMEMultipart("alternative", boundary=f"=_{token_hex(12)}", policy=WIRE)
        for name, value in self._headers().items():
            message[name] = value
        message.attach(_part(self.body or "", "plain"))
        message.attach(_part(self.html or "", "html"))
        return message

    def _headers(self) -> dict[str, Any]:
        is_ascii = self.subject.isascii()
        return {
            "Subject": self.subject if is_ascii else Header(self.subject, "utf-8", header_name="Subject"),
            "From": flask_mail.sanitize_address(self.sender),
            "To": ", ".join(map(str, self.recipients)),
            "Date": format_datetime(utc_now()),
            "Message-ID": self.msgId,
            # RFC 3834: keeps holiday notes from answering.
            "Auto-Submitted": "auto-generated",
        }


def _part(text: str, subtype: str) -> MIMENonMultipart:
    # Quoted-printable keeps every line under 998 bytes (RFC 5322, section 2.1.1), which inlined HTML does not, and
    # needs no 8BITMIME. binascii does it in C; email's own encoder takes a hundred times as long.
    part = MIMENonMultipart("text", subtype, policy=WIRE, charset="utf-8")
    part["Content-Transfer-Encoding"] = "quoted-printable"
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    part.set_payload(binascii.b2a_qp(lines.encode(), istext=True).decode("ascii"))
    return part
