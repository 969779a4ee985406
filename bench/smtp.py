"""An SMTP server that takes every mail, as fast as it can or with a delay, and writes down when; or one that hangs.

Run as a program: `python -m bench.smtp PORT DELAY_SECONDS LOG`. It speaks just enough of RFC 5321 for one client
library, since a complete server would be what is measured. The log has a line for each accepted mail: the Unix time and
its recipient. With an infinite delay it takes connections and says nothing, not even its greeting.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from pathlib import Path
from typing import TextIO

END = b"\r\n.\r\n"


async def converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_seconds: float, log: TextIO
) -> None:
    """One client's connection."""
    if math.isinf(delay_seconds):
        await asyncio.Future()
    writer.write(b"220 bench\r\n")
    recipient = ""
    while line := await reader.readline():
        verb = line[:4].upper()
        if verb == b"RCPT":
            recipient = line.partition(b"<")[2].partition(b">")[0].decode()
        if verb == b"DATA":
            writer.write(b"354 go on\r\n")
            await reader.readuntil(END)
            await asyncio.sleep(delay_seconds)
            log.write(f"{time.time()} {recipient}\n")
            log.flush()
        writer.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
        if verb == b"QUIT":
            break
    writer.close()


async def serve(port: int, delay_seconds: float, log: TextIO) -> None:
    """Serves until the process is ended."""
    server = await asyncio.start_server(
        lambda reader, writer: converse(reader, writer, delay_seconds, log), "127.0.0.1", port, limit=1 << 22
    )
    await server.serve_forever()


if __name__ == "__main__":
    with Path(sys.argv[3]).open("w") as log:
        asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]), log))
