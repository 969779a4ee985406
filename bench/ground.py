"""What a contestant stands on for one measurement: a fresh database, broker and SMTP server, and processes over them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.servers import PostgresServer, ValkeyServer, short_folder

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 300
STOP_SECONDS = 40


class BenchError(Exception):
    """A measurement cannot be made; the message is one line."""


class Ground:
    """Fresh servers, and the processes that were started over them.

    Args:
        folder: for whatever the processes write.
        database_url: an empty database.
        valkey: an empty broker.
        smtp_port: where the SMTP server listens.
    """

    def __init__(self, folder: Path, database_url: str, valkey: ValkeyServer, smtp_port: int) -> None:
        self.folder = folder
        self.database_url = database_url
        self.valkey = valkey
        self.smtp_log = folder / "smtp.log"
        self.environ = {
            "BENCH_FOLDER": str(folder),
            "DATABASE_URL": database_url,
            "REDIS_URL": valkey.url,
            "RQ_REDIS_URL": valkey.url,
            "MAIL_PORT": str(smtp_port),
        }
        self._output = folder / "output.log"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, command: Sequence[str | Path], cwd: Path, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Starts a process in a group of its own; it is ended with the ground."""
        with self._output.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=self._environ(environ),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def run(self, command: Sequence[str | Path], cwd: Path, environ: Mapping[str, str]) -> Any:
        """Runs a program to its end; returns what the last line of its output says, as JSON."""
        env = self._environ(environ)
        done = subprocess.run(command, check=False, cwd=cwd, env=env, capture_output=True, text=True)
        if done.returncode != 0:
            raise BenchError(f"{' '.join(map(str, command))}: {_last_line(done.stderr)}")
        return json.loads(_last_line(done.stdout) or "null")

    def query(self, statement: str) -> Any:
        """The first row of a query on the database, or None."""
        with self._connection() as connection:
            return connection.execute(statement).fetchone()

    def execute(self, statement: str) -> None:
        """Runs a statement on the database and commits it."""
        with self._connection() as connection:
            connection.execute(statement)
            connection.commit()

    def _connection(self) -> contextlib.closing[Any]:
        if self.database_url.startswith("sqlite:///"):
            return contextlib.closing(sqlite3.connect(self.database_url.removeprefix("sqlite:///"), timeout=10))
        return contextlib.closing(psycopg.connect(self.database_url))

    def accepted(self) -> list[float]:
        """When the SMTP server accepted each mail so far, as Unix times."""
        return [float(line.split()[0]) for line in self.smtp_log.read_text().splitlines()]

    def wait(self, condition: Callable[[], bool], seconds: float = LIMIT_SECONDS, every: float = 0.1) -> None:
        """Waits until `condition()` holds. Raises BenchError when it takes too long or a process has ended."""
        ends_at = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > ends_at or any(process.poll() is not None for process in self._processes):
                reason = "took too long" if time.monotonic() > ends_at else "lost a process"
                raise BenchError(f"the measurement {reason}: {_last_line(self._output.read_text(errors='replace'))}")
            time.sleep(every)

    def stop_processes(self) -> None:
        """Ends all that were started here, with their children."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._processes.clear()

    def _environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        return dict(os.environ) | self.environ | dict(environ)


class Grounds:
    """Makes grounds; one PostgreSQL server serves them all, each with a database of its own."""

    def __init__(self) -> None:
        self._cleanup = contextlib.ExitStack()
        self._postgres: PostgresServer | None = None

    def __enter__(self) -> Grounds:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    @contextlib.contextmanager
    def fresh(self, database: str, smtp_delay_seconds: float = 0.0) -> Iterator[Ground]:
        """An empty ground on `sqlite` or `postgresql`; it is gone afterwards."""
        with contextlib.ExitStack() as cleanup:
            folder = cleanup.enter_context(short_folder())
            valkey = ValkeyServer(folder)
            valkey.start()
            cleanup.callback(valkey.stop)
            url = f"sqlite:///{folder}/bench.sqlite3" if database == "sqlite" else self._create_database(cleanup)
            ground = Ground(folder, url, valkey, port := free_port())
            cleanup.callback(ground.stop_processes)
            server = [sys.executable, "-m", "bench.smtp", str(port), str(smtp_delay_seconds), str(ground.smtp_log)]
            ground.start(server, ROOT, {})
            ground.wait(lambda: listens(port), seconds=10, every=0.02)
            yield ground

    def _create_database(self, cleanup: contextlib.ExitStack) -> str:
        if self._postgres is None:
            self._postgres = PostgresServer(self._cleanup.enter_context(short_folder()))
            self._cleanup.callback(self._postgres.stop)
        name = self._postgres.create()
        cleanup.callback(self._postgres.drop, name)
        return self._postgres.url(name)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port: int) -> bool:
    """Whether somebody listens on a port of the loopback interface."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
