"""Reading what the development inbox has caught: one `.eml` file per mail, named so that names sort by arrival."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage as ParsedMessage
from email.parser import BytesParser
from email.policy import default
from functools import lru_cache
from pathlib import Path

from flask_belfry.core.errors import NotFoundError

KEY = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}")
SHOWN = 100


@dataclass(frozen=True)
class CaughtMail:
    """A caught mail, decoded. `recipients` are those of the envelope, blind copies included."""

    key: str
    sender: str
    recipients: Sequence[str]
    subject: str
    received_at: datetime
    headers: Sequence[tuple[str, str]]
    text: str
    html: str
    source: str

    @property
    def has_html(self) -> bool:
        """Whether it has an HTML part."""
        return bool(self.html)


def list_mails(folder: Path) -> list[CaughtMail]:
    """The newest mails in `folder`, at most 100; a folder that is not there is empty."""
    keys = sorted((path.stem for path in folder.glob("*.eml") if KEY.fullmatch(path.stem)), reverse=True)
    found = (_read_or_none(folder, key) for key in keys[:SHOWN])
    return [mail for mail in found if mail is not None]


def get_mail(folder: Path, key: str) -> CaughtMail:
    """One mail. Raises NotFoundError, also for a key that is none: it names a file."""
    mail = _read_or_none(folder, key) if KEY.fullmatch(key) else None
    if mail is None:
        raise NotFoundError("This mail is not in the inbox, or was removed.")
    return mail


def _read_or_none(folder: Path, key: str) -> CaughtMail | None:
    try:
        return _read(folder / f"{key}.eml")
    except FileNotFoundError:  # pruned since it was listed
        return None


@lru_cache(maxsize=2 * SHOWN)  # a file never changes, and the page asks every two seconds
def _read(path: Path) -> CaughtMail:
    content = path.read_bytes()
    message: ParsedMessage = BytesParser(policy=default).parsebytes(content)
    return CaughtMail(
        key=path.stem,
        sender=str(message["From"] or message["X-Envelope-From"] or ""),
        recipients=[address.strip() for address in str(message["X-Envelope-To"] or "").split(",")],
        subject=str(message["Subject"] or ""),
        received_at=datetime.strptime(path.stem.partition("-")[0], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC),
        headers=[(name, str(value)) for name, value in message.items()],
        text=_body(message, "plain"),
        html=_body(message, "html"),
        source=content.decode("utf-8", "replace"),
    )


def _body(message: ParsedMessage, subtype: str) -> str:
    part = message.get_body((subtype,))
    return "" if part is None else str(part.get_content())
