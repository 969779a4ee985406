"""The folder of the development inbox: one `.eml` file per mail, named so that names sort by arrival, and the file
`port`, which exists while the SMTP server listens."""

from __future__ import annotations

import re
import secrets
import time
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
KEY_TIME = "%Y%m%dT%H%M%S.%fZ"
MAX_STORED = 1000
MAX_LISTED = 100
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class CaughtMail:
    """A decoded mail. `recipients` are those of the SMTP envelope, including blind copies."""

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
        """Whether the mail has an HTML part."""
        return bool(self.html)


def add_mail(folder: Path, sender: str, recipients: Sequence[str], content: bytes) -> None:
    """Store a mail, with its SMTP envelope in two headers on top, and delete the oldest beyond MAX_STORED."""
    # The random part separates two mails of the same microsecond.
    name = f"{datetime.now(UTC):{KEY_TIME}}-{secrets.token_hex(4)}.eml"
    headers = f"X-Envelope-From: {sender}\r\nX-Envelope-To: {', '.join(recipients)}\r\n"
    write_atomically(folder / name, headers.encode() + content)
    prune(folder)


def list_mails(folder: Path) -> list[CaughtMail]:
    """Return the newest mails, at most MAX_LISTED, newest first; none if the folder does not exist."""
    keys = sorted((path.stem for path in folder.glob("*.eml") if KEY.fullmatch(path.stem)), reverse=True)
    found = (_read_or_none(folder, key) for key in keys[:MAX_LISTED])
    return [mail for mail in found if mail is not None]


def get_mail(folder: Path, key: str) -> CaughtMail:
    """Return a mail. Raises NotFoundError, also for an invalid key, because the key names a file."""
    mail = _read_or_none(folder, key) if KEY.fullmatch(key) else None
    if mail is None:
        raise NotFoundError("This mail is not in the inbox, or was removed.")
    return mail


def prune(folder: Path, keep: int = MAX_STORED) -> None:
    """Delete all mails except the newest."""
    for path in sorted(folder.glob("*.eml"))[:-keep]:
        path.unlink(missing_ok=True)


def write_port(folder: Path, port: int) -> None:
    """Record the port on which the SMTP server listens."""
    write_atomically(folder / "port", str(port).encode())


def remove_port(folder: Path) -> None:
    """Record that the SMTP server has stopped."""
    (folder / "port").unlink(missing_ok=True)


def read_port(folder: Path, wait_seconds: float) -> int | None:
    """Return the port of the SMTP server; None if it does not start within `wait_seconds`."""
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return int((folder / "port").read_text())
        except FileNotFoundError:
            if time.monotonic() >= deadline:
                return None
        time.sleep(POLL_SECONDS)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that other processes see completely or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    temporary.replace(path)


def _read_or_none(folder: Path, key: str) -> CaughtMail | None:
    try:
        return _read(folder / f"{key}.eml")
    except FileNotFoundError:  # pruned after it was listed
        return None


@lru_cache(maxsize=2 * MAX_LISTED)  # the files do not change, and the page reloads them every two seconds
def _read(path: Path) -> CaughtMail:
    content = path.read_bytes()
    message: ParsedMessage = BytesParser(policy=default).parsebytes(content)
    return CaughtMail(
        key=path.stem,
        sender=str(message["From"] or message["X-Envelope-From"] or ""),
        recipients=[email.strip() for email in str(message["X-Envelope-To"] or "").split(",")],
        subject=str(message["Subject"] or ""),
        received_at=datetime.strptime(path.stem.partition("-")[0], KEY_TIME).replace(tzinfo=UTC),
        headers=[(name, str(value)) for name, value in message.items()],
        text=_body(message, "plain"),
        html=_body(message, "html"),
        source=content.decode("utf-8", "replace"),
    )


def _body(message: ParsedMessage, subtype: str) -> str:
    part = message.get_body((subtype,))
    return "" if part is None else str(part.get_content())
