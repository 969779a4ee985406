"""A process that has imported the project and is forked for each process that a test starts: imports take a second."""

from __future__ import annotations

import atexit
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# What commands and workers import when they run.
IMPORTS = (
    "cli",
    "tests.domain",
    "scheduler",
    "jobs",
    "flask_belfry.operations.jobs_cli",
    "flask_belfry.operations.worker_cli",
    "flask_belfry.workers.forking",
    "flask_belfry.workers.pool",
    "flask_belfry.workers.threaded",
    "psycopg",
    "sqlalchemy.dialects.sqlite",
)


class ForkServer:
    """Starts Python programs as forks of one process. One thread at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        self._lock = threading.Lock()

    def start(self, program: str, words: Sequence[str], environ: Mapping[str, str], output: Path) -> ForkedProcess:
        """Run a program, as `python -c` does, in a session of its own."""
        return ForkedProcess(self, program, self._ask((program, list(words), dict(environ), str(output))))

    def exit_status(self, pid: int) -> int:
        """Return the exit status of a process that has ended, or minus the signal that ended it."""
        return self._ask(pid)

    def stop(self) -> None:
        """End the server."""
        self._connection.close()
        self._process.wait(10)

    def _ask(self, request: Any) -> int:
        with self._lock:
            self._connection.send(request)
            return self._connection.recv()


class ForkedProcess:
    """A process of the fork server, with the methods of `subprocess.Popen` that tests call."""

    def __init__(self, server: ForkServer, program: str, pid: int) -> None:
        self.args = program
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        self._lock = threading.Lock()
        self._fd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit status."""
        with self._lock:
            if self.returncode is None:
                if not select.select([self._fd], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
                self.returncode = self._server.exit_status(self.pid)
                os.close(self._fd)
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


@cache
def fork_server() -> ForkServer:
    """Return the fork server of this process."""
    server = ForkServer()
    atexit.register(server.stop)
    return server


def _serve(connection: Connection) -> tuple[str, list[str], dict[str, str], str]:
    """Fork for each request; returns in the forks, with the request."""
    while True:
        try:
            request = connection.recv()
        except EOFError:
            sys.exit()
        if isinstance(request, int):
            connection.send(os.waitstatus_to_exitcode(os.waitpid(request, 0)[1]))
        elif os.fork() == 0:
            # Its group exists before anyone knows the process.
            os.setsid()
            connection.send(os.getpid())
            connection.close()
            return request


def _main() -> None:
    gc.disable()
    for name in IMPORTS:
        import_module(name)
    for name in import_module("app").SLICES:
        import_module(name)
    gc.freeze()
    gc.enable()
    program, words, environ, output = _serve(Connection(int(sys.argv[1])))
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(file, standard)
    os.close(file)
    sys.argv = ["-c", *words]
    exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    _main()
