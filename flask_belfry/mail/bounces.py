"""Bounces: reports of mail servers that a mail, which they had accepted, was not delivered.

A bounce names its mail by the return path to which it was sent, or else by the Message-ID of the mail that it returns.
The formats are those that flufl.bounce detects. Anyone can send a message to the bounce address, so all of it is
bounded before it is parsed, and only a mail of ours in the state `sent` or `uncertain` changes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from email import message_from_string
from email.message import Message
from email.utils import parseaddr
from enum import StrEnum
from itertools import takewhile

import sqlalchemy as sa
import structlog
from flask import current_app

from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import AppError, InvalidInputError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text, storable
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope
from flask_belfry.mail import ledger
from flask_belfry.mail.errors import without_emails, without_mailbox
from flask_belfry.mail.models import EmailMessage, MailState, SuppressionSource
from flask_belfry.mail.return_path import ForgedReturnPathError, mail_of
from flask_belfry.mail.status_codes import Fault, fault_of
from flask_belfry.mail.suppressions import suppress

log = structlog.get_logger(__name__)

MAX_MESSAGE_BYTES = 1024 * 1024
# The report comes before the returned mail, whose headers are the last that is read.
READ_BYTES = 256 * 1024
MAX_LINE_CHARACTERS = 998
# Of a folded header: parsing the parameters of one takes quadratic time.
MAX_CONTINUATIONS = 10
# Each level of nesting is a level of recursion in the parser.
MAX_CONTAINERS = 20
# Lines that may begin a part.
MAX_SEPARATORS = 500
# For the text that is searched with the expressions of flufl.bounce, some of which take quadratic time for a line.
SEARCHED_LINES = 200
SEARCHED_LINE_CHARACTERS = 250
REASON_CHARACTERS = 500

# Where mail servers record the recipient of the envelope.
RECIPIENT_HEADERS = ("Delivered-To", "X-Original-To", "Envelope-To", "X-Envelope-To", "To")
_CONTAINER = re.compile(r"(?im)^content-type:\s*(?:multipart|message)/")
_SEPARATORS = re.compile(r"[\s<>,;\"]+")
# An enhanced status code (RFC 3463). IP addresses and most version numbers are not matched.
_STATUS = re.compile(r"(?<![\d.])([45]\.\d{1,3}\.\d{1,3})(?![\d.])")
_AUTOMATIC_REPLY = re.compile(r"(?i)\s*auto-(?:replied|notified)")


class BounceResult(StrEnum):
    """What a message to the bounce address was, and what was done."""

    BOUNCED = "bounced"  # the mail is now in this state
    REPEATED = "repeated"  # the mail had bounced before
    DELAYED = "delayed"  # a server is still trying: only logged
    UNCHANGED = "unchanged"  # the mail is not `sent`, nor may have been sent, or it was sent again meanwhile
    NOT_A_BOUNCE = "not a bounce"  # an automatic reply, or anything else


@dataclass(frozen=True)
class Bounce:
    """A message to the bounce address, after it was recorded.

    Args:
        mail_id: the mail that it reports; None if it is not a bounce.
        code: the enhanced status code (RFC 3463), such as `5.1.1`, if there is one.
    """

    result: BounceResult
    mail_id: str | None = None
    code: str | None = None

    def __str__(self) -> str:
        if self.mail_id is None:
            return self.result.value
        return f"{self.mail_id}: {self.result.value}" + (f" ({self.code})" if self.code else "")


class UnreadableBounceError(InvalidInputError):
    """The message cannot be parsed, or is too large."""


class UnknownBounceError(NotFoundError):
    """The bounce names no mail of the ledger, or its return path is forged."""


class EarlyBounceError(AppError):
    """The mail is still being sent: its state is committed soon, and the bounce must be delivered again later."""

    status = 503


@dataclass(frozen=True)
class _Failure:
    is_permanent: bool
    code: str | None
    reason: str


@use_scope(ALL_TENANTS)  # the school is known only after the lookup
def record_bounce(content: bytes, recipient: str | None = None) -> Bounce:
    """Read a message to the bounce address, and set the mail that it reports to `bounced`. The caller commits.

    Args:
        content: the message, with headers.
        recipient: the recipient of its envelope; by default it is read from the headers.

    Raises:
        UnreadableBounceError, UnknownBounceError, EarlyBounceError: see there.
    """
    text = _bounded(content)
    try:
        message = _parsed(text)
        failure = _failure(message)
        recipients = [recipient] if recipient else list(_recipients(message))
    except UnreadableBounceError:
        raise
    except Exception as error:
        # Parsers and detectors raise anything for hostile messages.
        log.warning("mail.bounce_unreadable", error=type(error).__name__)
        raise UnreadableBounceError(f"the message cannot be read ({type(error).__name__})") from error
    if failure is None:
        return Bounce(BounceResult.NOT_A_BOUNCE)
    message_ids = _own_message_ids(text)
    signed = _signed(recipients)
    mail = _find(signed or {as_uuid_text(message_id[1:].partition("@")[0]) for message_id in message_ids})
    # Everyone who has got a mail knows its Message-ID, and could have an address suppressed with it.
    may_suppress = bool(signed) or current_app.config["MAIL_BOUNCE_ADDRESS"] is None
    return _record(mail, message_ids, failure, may_suppress=may_suppress)


def _record(mail: EmailMessage, message_ids: set[str], failure: _Failure, *, may_suppress: bool) -> Bounce:
    result = _result(mail, message_ids, failure)
    if result is BounceResult.BOUNCED:
        mail.state, mail.bounced_at = MailState.BOUNCED, utc_now()
        mail.last_error = failure.reason
        db.session.flush()
        ledger.report(db.session(), mail.kind, [mail.id])
        if may_suppress:
            _suppress_address(mail, failure)
    log.info(
        "mail.bounce",
        mail=mail.id,
        kind=mail.kind,
        result=result.value,
        code=failure.code,
        reason=without_emails(failure.reason),
    )
    return Bounce(result, mail.id, failure.code)


def _suppress_address(mail: EmailMessage, failure: _Failure) -> None:
    """Suppress the recipient of a bounced mail if there is no such mailbox."""
    if mail.recipients and fault_of(failure.code) is Fault.ADDRESS:
        email = mail.recipients[0]
        reason = without_mailbox(failure.reason, email.rpartition("@")[0])
        suppress(email, failure.code, SuppressionSource.BOUNCE, reason=reason, mail_id=mail.id)


def _result(mail: EmailMessage, message_ids: set[str], failure: _Failure) -> BounceResult:
    is_of_other_sending = bool(message_ids) and mail.message_id not in message_ids
    if mail.state is MailState.SENDING and failure.is_permanent:
        raise EarlyBounceError(f"mail {mail.id} is being sent: deliver the bounce again later")
    if not failure.is_permanent:
        return BounceResult.DELAYED
    if mail.state is MailState.BOUNCED:
        return BounceResult.REPEATED
    if mail.state not in (MailState.SENT, MailState.UNCERTAIN) or is_of_other_sending:
        return BounceResult.UNCHANGED
    return BounceResult.BOUNCED


def _signed(recipients: list[str]) -> set[str]:
    """Return the ids of the mails whose signed return paths are among the recipients. Raises UnknownBounceError."""
    ids: set[str | None] = set()
    is_forged = False
    for email in recipients:
        try:
            ids.add(mail_of(email))
        except ForgedReturnPathError:
            is_forged = True
    found = {id for id in ids if id is not None}
    if is_forged and not found:
        raise UnknownBounceError("the return path is forged, or was signed with another SECRET_KEY")
    return found


def _find(ids: Collection[str | None]) -> EmailMessage:
    """Return the mail, locked. Raises UnknownBounceError."""
    query = sa.select(EmailMessage).where(EmailMessage.id.in_(ids)).order_by(EmailMessage.id).with_for_update()
    found = db.session.scalars(query.execution_options(populate_existing=True)).first()
    if found is None:
        raise UnknownBounceError("the bounce names no mail of the ledger")
    return found


def _bounded(content: bytes) -> str:
    """Return the beginning of a message, with short lines and headers, in the form that parses in bounded time."""
    if len(content) > MAX_MESSAGE_BYTES:
        raise UnreadableBounceError(f"the message has more than {MAX_MESSAGE_BYTES:,} bytes")
    lines: list[str] = []
    continuations = 0
    for line in storable(content[:READ_BYTES].decode("utf-8", "replace")).replace("\r\n", "\n").split("\n"):
        continuations = continuations + 1 if line.startswith((" ", "\t")) else 0
        if continuations <= MAX_CONTINUATIONS:
            lines.append(line[:MAX_LINE_CHARACTERS])
    # mbox files and pipes begin with the envelope.
    if lines[0].startswith("From "):
        del lines[0]
    text = "\n".join(lines)
    if len(_CONTAINER.findall(text)) > MAX_CONTAINERS:
        raise UnreadableBounceError(f"the message has more than {MAX_CONTAINERS} nested parts")
    if text.count("\n--") > MAX_SEPARATORS:
        raise UnreadableBounceError(f"the message has more than {MAX_SEPARATORS} parts")
    return text


def _parsed(text: str) -> Message:
    message = message_from_string(text)
    if not message.keys():
        raise UnreadableBounceError("the input is not a message: it has no headers")
    return message


def _recipients(message: Message) -> Iterator[str]:
    for name in RECIPIENT_HEADERS:
        for value in message.get_all(name, []):
            yield from (word for word in _SEPARATORS.split(str(value)) if "@" in word)


def _own_message_ids(text: str) -> set[str]:
    """Return what may be Message-IDs of ours in the message: of the mail that it returns."""
    domain = re.escape(current_app.config["MAIL_MESSAGE_ID_DOMAIN"])
    return set(re.findall(rf"<[0-9a-f]{{8}}-[0-9a-f-]{{27}}@{domain}>", text))


def _failure(message: Message) -> _Failure | None:
    """Return the failure that a message reports; None if it is not a bounce."""
    # Imported here: only bounces need it.
    from flufl.bounce import all_failures

    if _is_automatic_reply(message):
        return None
    status = _delivery_status(message)
    _shorten_text(message)
    if not parseaddr(str(message.get("From", "")))[1]:
        # A detector of flufl.bounce fails without one.
        del message["From"]
        message["From"] = "unknown@invalid"
    delayed, failed = all_failures(message)
    if not failed and not delayed:
        return None
    code, reason = status or _status_in_text(list(_report(message)), failed or delayed)
    return _Failure(bool(failed), code, " ".join(storable(reason).split())[:REASON_CHARACTERS])


def _is_automatic_reply(message: Message) -> bool:
    # Exim calls its bounces automatic replies too, and names the failed recipients in a header.
    is_report = message.get_content_type() == "multipart/report" or "X-Failed-Recipients" in message
    return not is_report and _AUTOMATIC_REPLY.match(str(message.get("Auto-Submitted", ""))) is not None


def _delivery_status(message: Message) -> tuple[str | None, str] | None:
    """Return code and reason of the first recipient in a delivery status (RFC 3464) that was not reached."""
    for part in message.walk():
        if part.get_content_type() != "message/delivery-status" or not part.is_multipart():
            continue
        for block in part.get_payload():
            if isinstance(block, Message) and str(block.get("Action", "")).lower().startswith(("fail", "error", "del")):
                return _status_of(str(block.get("Status", "")), str(block.get("Diagnostic-Code", "")))
    return None


def _status_of(status: str, diagnostic: str) -> tuple[str | None, str]:
    found, detailed = _STATUS.search(status), _STATUS.search(diagnostic)
    code = found[1] if found else None
    # Some servers give the general code 5.0.0, and quote the other server's.
    if detailed and (code is None or code.endswith(".0.0")):
        code = detailed[1]
    return code, " ".join(part for part in (code, diagnostic) if part) or "no reason is given"


def _shorten_text(message: Message) -> None:
    """Shorten the text of all parts together to what is searched."""
    left = SEARCHED_LINES
    for part in message.walk():
        payload = part.get_payload()
        if isinstance(payload, str):
            lines = [line[:SEARCHED_LINE_CHARACTERS] for line in payload.split("\n", left)[:left]]
            part.set_payload("\n".join(lines))
            left -= len(lines)


def _report(message: Message) -> Iterator[str]:
    """Return the lines of the text of a bounce, without the mail that it returns."""
    payload = message.get_payload()
    if isinstance(payload, str):
        yield from takewhile(lambda line: not line.startswith("---"), payload.split("\n"))
    elif message.get_content_maintype() == "multipart":
        for part in payload:
            if isinstance(part, Message):
                yield from _report(part)


def _status_in_text(lines: list[str], failed: frozenset[bytes]) -> tuple[str | None, str]:
    """Return code and reason in the text of a bounce without a delivery status."""
    for line in lines:
        if match := _STATUS.search(line):
            return match[1], line
    emails = [email.decode() for email in failed]
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if any(email in line for email in emails):
            return None, f"{line} {following}"
    return None, "no reason is given"
