"""The SMTP server of the development inbox: stores each mail in a folder instead of delivering it.

`inbox_store` defines the folder, `inbox` has its pages.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from flask_belfry.mail import inbox_store


def serve(folder: Path) -> None:
    """Receive mails on a free port of 127.0.0.1 until SIGTERM or SIGINT; the folder names the port meanwhile."""
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
    inbox_store.write_port(folder, port)
    print(f"development inbox: SMTP on 127.0.0.1:{port}", flush=True)
    await stopped.wait()
    inbox_store.remove_port(folder)
    server.close()


class Catcher:
    """The handler that aiosmtpd calls for each mail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.original_content or b""
        inbox_store.add_mail(self.folder, str(envelope.mail_from), envelope.rcpt_tos, content)
        return "250 caught"
