"""A server that accepts every push message, with a delay, and writes down when.

Run as a program: `python -m bench.fcm PORT DELAY_SECONDS LOG`. It speaks just enough of HTTP and of FCM for one client
library: a POST to `/token` returns an access token, any other one accepts a message. The log has a line for each
accepted message: the Unix time.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from pathlib import Path
from typing import TextIO

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
TOKEN = b'{"access_token": "bench", "expires_in": 3600, "token_type": "Bearer"}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
ACCEPTED = b'{"name": "projects/bench/messages/1"}'


def write_credentials(path: Path, port: int) -> None:
    """Writes a service account file whose tokens come from a server on this port."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    account = {
        "type": "service_account",
        "project_id": "bench",
        "private_key_id": "bench",
        "private_key": key.private_bytes(encoding, form, serialization.NoEncryption()).decode(),
        "client_email": "bench@bench.invalid",
        "token_uri": f"http://127.0.0.1:{port}/token",
    }
    path.write_text(json.dumps(account))


async def converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_seconds: float, log: TextIO
) -> None:
    """One client's connection."""
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            break
        if length := LENGTH.search(head):
            await reader.readexactly(int(length[1]))
        body = TOKEN
        if not head.startswith(b"POST /token"):
            await asyncio.sleep(delay_seconds)
            log.write(f"{time.time()}\n")
            log.flush()
            body = ACCEPTED
        writer.write(HEAD % len(body) + body)
    writer.close()


async def serve(port: int, delay_seconds: float, log: TextIO) -> None:
    """Serves until the process is ended."""
    server = await asyncio.start_server(lambda r, w: converse(r, w, delay_seconds, log), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    with Path(sys.argv[3]).open("w") as log:
        asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]), log))
