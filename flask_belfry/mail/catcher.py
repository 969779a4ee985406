"""A small SMTP server that keeps each mail as one file instead of delivering it. The pages are flask_belfry.mail's."""

from __future__ import annotations

import asyncio
import secrets
import signal
from datetime import UTC, datetime
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

KEPT_MAILS = 1000


def serve(folder: Path) -> None:
    """Catches mails until SIGTERM or SIGINT.

    Args:
        folder: gets one `.eml` per mail, and the file `port`, which is there while the server listens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(_serve(folder))


async def _serve(folder: Path) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopped.set)
    catcher = Catcher(folder)
    server = await loop.create_server(lambda: SMTP(catcher, enable_SMTPUTF8=True), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    write_atomically(folder / "port", str(port).encode())
    print(f"catching mails on 127.0.0.1:{port}", flush=True)
    await stopped.wait()
    (folder / "port").unlink(missing_ok=True)
    server.close()


class Catcher:
    """aiosmtpd calls this handler for each mail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        # The name sorts by the time of arrival; the random part keeps two of one microsecond apart.
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}.eml"
        write_atomically(self.folder / name, with_envelope(envelope))
        prune(self.folder)
        return "250 caught"


def with_envelope(envelope: Envelope) -> bytes:
    """The mail with its envelope in two headers on top: whom it was really from and for, blind copies too."""
    content = envelope.original_content or b""
    headers = f"X-Envelope-From: {envelope.mail_from}\r\nX-Envelope-To: {', '.join(envelope.rcpt_tos)}\r\n"
    return headers.encode() + content


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file that readers see whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    temporary.replace(path)


def prune(folder: Path, keep: int = KEPT_MAILS) -> None:
    """Deletes all but the newest mails."""
    for path in sorted(folder.glob("*.eml"))[:-keep]:
        path.unlink(missing_ok=True)
