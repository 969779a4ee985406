"""The surroundings of a contestant that is measured: a fresh database, broker and SMTP server, and its processes."""

from __future__ import annotations

import contextlib
import json
import os
import resource
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

from bench.errors import BenchError
from bench.fcm import write_credentials
from tests.servers import PostgresServer, ValkeyServer, free_port, short_folder

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 600
START_SECONDS = 60
Command = Sequence[str | Path]
Environ = Mapping[str, str]


class Ground:
    """Fresh servers, and the processes that were started over them.

    Args:
        folder: for whatever the processes write.
        database: `sqlite` or `postgresql`.
        database_url: an empty one of that kind.
        valkey: an empty broker.
        smtp_port: where the SMTP server is to listen.
    """

    def __init__(self, folder: Path, database: str, database_url: str, valkey: ValkeyServer, smtp_port: int) -> None:
        self.database = database
        self.valkey = valkey
        self.smtp_log = folder / "smtp.log"
        self._folder = folder
        self._database_url = database_url
        self._output = folder / "output.log"
        self._environ = {
            "BENCH_FOLDER": str(folder),
            "DATABASE_URL": database_url,
            "REDIS_URL": valkey.url,
            "RQ_REDIS_URL": valkey.url,
            "MAIL_PORT": str(smtp_port),
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, command: Command, cwd: Path, environ: Environ) -> int:
        """Starts a process, which is ended with the ground; returns its id."""
        with self._output.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**os.environ, **self._environ, **environ},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process.pid

    def run(self, command: Command, cwd: Path, environ: Environ) -> Any:
        """Runs a program, which may import bench.stepping, to its end.

        Returns:
            what the last line of its output says, as JSON.

        Raises:
            BenchError: it failed.
        """
        env = {**os.environ, **self._environ, **environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, check=False, cwd=cwd, env=env, capture_output=True, text=True)
        if done.returncode != 0:
            raise BenchError(f"{' '.join(map(str, command))}: {_last_line(done.stderr)}")
        return json.loads(_last_line(done.stdout) or "null")

    def time(self, command: Command, cwd: Path, environ: Environ) -> tuple[float, float]:
        """Runs a program to its end; returns its seconds, elapsed and of the processor. Raises BenchError."""
        env = {**os.environ, **self._environ, **environ, "PYTHONPATH": str(cwd)}
        used, begun = _children_seconds(), time.perf_counter()
        done = subprocess.run(command, check=False, cwd=cwd, env=env, capture_output=True, text=True)
        elapsed, processor = time.perf_counter() - begun, _children_seconds() - used
        if done.returncode != 0:
            raise BenchError(f"{' '.join(map(str, command))}: {_last_line(done.stderr)}")
        return elapsed, processor

    def query(self, statement: str) -> Any:
        """The first row of a query on the database, or None."""
        with self._connection() as connection:
            return connection.execute(statement).fetchone()

    def execute(self, statement: str) -> None:
        """Runs a statement on the database and commits it."""
        with self._connection() as connection:
            connection.execute(statement)

    def accepted(self) -> list[float]:
        """When the SMTP server accepted each mail so far, as Unix times."""
        return [moment for moment, _ in self._accepted()]

    def recipients(self) -> dict[str, float]:
        """When the SMTP server accepted the last mail to each recipient, as Unix times."""
        return {recipient: moment for moment, recipient in self._accepted()}

    def start_fcm(self, delay_seconds: float) -> Path:
        """Starts a server of push messages, which the contestants then use; returns its log."""
        port, log, credentials = free_port(), self._folder / "fcm.log", self._folder / "credentials.json"
        write_credentials(credentials, port)
        self._environ |= {"FCM_CREDENTIALS": str(credentials), "FCM_ENDPOINT": f"http://127.0.0.1:{port}"}
        self.start([sys.executable, "-m", "bench.fcm", str(port), str(delay_seconds), str(log)], ROOT, {})
        self.wait_until_listening(port)
        return log

    def wait(self, condition: Callable[[], bool], seconds: float | None = None, every: float = 0.1) -> None:
        """Waits until `condition()` holds, within LIMIT_SECONDS by default.

        Raises:
            BenchError: it takes too long, or a process has ended.
        """
        seconds = LIMIT_SECONDS if seconds is None else seconds
        ends_at = time.monotonic() + seconds
        while not condition():
            if any(process.poll() is not None for process in self._processes):
                raise BenchError(f"a process ended too early: {self._said()}")
            if time.monotonic() > ends_at:
                raise BenchError(f"what should happen within {seconds:g} s did not: {self._said()}")
            time.sleep(every)

    def wait_until_listening(self, port: int) -> None:
        """Wait until a process listens on a port of the loopback interface."""
        self.wait(lambda: _listens(port), START_SECONDS, every=0.02)

    def stop_processes(self) -> None:
        """Kills all that were started here, with their children: nothing of what they would tidy up stays."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def _accepted(self) -> list[tuple[float, str]]:
        # The server may be writing the last line.
        lines = self.smtp_log.read_text().rpartition("\n")[0].splitlines()
        return [(float(moment), recipient) for moment, _, recipient in (line.partition(" ") for line in lines)]

    def _said(self) -> str:
        return _last_line(self._output.read_text(errors="replace")) if self._output.exists() else ""

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Any]:
        """A connection without transactions: VACUUM wants none."""
        if self.database == "sqlite":
            path = self._database_url.removeprefix("sqlite:///")
            connection: Any = sqlite3.connect(path, timeout=START_SECONDS, isolation_level=None)
        else:
            connection = psycopg.connect(self._database_url, autocommit=True)
        with contextlib.closing(connection):
            yield connection


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
            ground = Ground(folder, database, url, valkey, port := free_port())
            cleanup.callback(ground.stop_processes)
            server = [sys.executable, "-m", "bench.smtp", str(port), str(smtp_delay_seconds), str(ground.smtp_log)]
            ground.start(server, ROOT, {})
            ground.wait_until_listening(port)
            yield ground

    def _create_database(self, cleanup: contextlib.ExitStack) -> str:
        if self._postgres is None:
            self._postgres = PostgresServer(self._cleanup.enter_context(short_folder()))
            self._cleanup.callback(self._postgres.stop)
        name = self._postgres.create()
        cleanup.callback(self._postgres.drop, name)
        return self._postgres.url(name)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
