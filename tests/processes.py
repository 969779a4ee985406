"""Real processes of the job system, started by tests with the test's settings, and killed by them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.fork_server import ForkedProcess, fork_server
from tests.servers import wait_until

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
# What logging prints, and goes on, when a line cannot be written.
LOGGING_ERROR = "--- Logging error ---"

Process = subprocess.Popen[bytes] | ForkedProcess


class Processes:
    """Starts processes and ends those that are left after the test.

    Args:
        environ: the application's settings.
        folder: where their output goes.
    """

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        # What RQ's own commands load.
        self._environ = {**os.environ, **environ, "FLASK_APP": "tests.root", "PYTHONPATH": str(ROOT)}
        self._folder = folder
        self._started: list[Process] = []

    def start(self, *command: str, **environ: str) -> subprocess.Popen[bytes]:
        """Start a program of the virtual environment in a process group of its own."""
        output = self._output_path(len(self._started)).open("wb")
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            cwd=ROOT,
            env=self._environ | environ,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        output.close()
        self._started.append(process)
        return process

    def fork(self, program: str, *words: str, **environ: str) -> ForkedProcess:
        """Start a Python program, as by `python -c`, in a process that has imported the project."""
        output = self._output_path(len(self._started))
        output.touch()
        process = fork_server().start(program, words, self._environ | environ, output)
        self._started.append(process)
        return process

    def run(self, *command: str, seconds: float = 60, **environ: str) -> int:
        """Run a program until its end; return its exit status."""
        return self.start(*command, **environ).wait(seconds)

    def worker(self, *options: str, **environ: str) -> ForkedProcess:
        """A worker as the Procfile starts it."""
        return self.command("jobs", "worker", *options, **environ)

    def command(self, *words: str, **environ: str) -> ForkedProcess:
        """A command of cli.py over the test's domain."""
        return self.fork("import cli, tests.domain; cli.main(cli.create())", *words, **environ)

    def scheduler(self, **environ: str) -> ForkedProcess:
        """A scheduler over the test's domain."""
        program = "import cli, scheduler, tests.domain; scheduler.main(cli.create())"
        return self.fork(program, **environ)

    def web(self, port: int, application: str = "wsgi:app", **environ: str) -> subprocess.Popen[bytes]:
        """Start the web process as the Procfile does; wait until it responds."""
        process = self.start_web(port, application, **environ)
        wait_until(lambda: answers_at(port), seconds=60)
        return process

    def start_web(self, port: int, application: str = "wsgi:app", **environ: str) -> subprocess.Popen[bytes]:
        """Start the web process without waiting."""
        lines = (ROOT / "Procfile").read_text().splitlines()
        line = next(line for line in lines if line.startswith("web: "))
        command = line.removeprefix("web: ").replace("wsgi:app", application)
        search = f"{BIN}:{os.environ['PATH']}"
        return self.start("/bin/sh", "-c", f"exec {command}", PORT=str(port), PATH=search, **environ)

    def output(self, process: Process | None = None) -> str:
        """Return what all of them, or one of them, have written so far."""
        numbers = range(len(self._started)) if process is None else [self._started.index(process)]
        return "\n".join(self._output_path(number).read_text(errors="replace") for number in numbers)

    def _output_path(self, number: int) -> Path:
        return self._folder / f"process-{number}.log"

    def kill_all(self) -> None:
        """End them all with their descendants, including work horses in groups of their own.

        Raises:
            AssertionError: one of them could not write a log line.
        """
        for process in self._started:
            kill_group(process, signal.SIGKILL)
            for pid in members_of_session(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for process in self._started:
            process.wait(10)
        check_log(self.output())


def check_log(text: str) -> None:
    """Raise an AssertionError with the traceback when the log of a process shows that a line could not be written."""
    _, error, rest = text.partition(LOGGING_ERROR)
    assert not error, f"a line was not logged:\n{rest[:4_000]}"


def kill_group(process: Process, number: signal.Signals) -> None:
    """Send a signal to a process and all its children."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def answers_at(port: int) -> bool:
    """Return whether a process listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def members_of_session(pid: int) -> Sequence[int]:
    """Return the processes in the session that this one has started."""
    members = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError):
            if os.getsid(int(entry.name)) == pid:
                members.append(int(entry.name))
    return members


def signal_tree(process: Process, number: signal.Signals) -> None:
    """Send a signal to a process and all its descendants, including those in groups of their own."""
    tree = psutil.Process(process.pid)
    for member in (tree, *tree.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(number)


def has_ended(pid: int) -> bool:
    """Return whether a process has ended; a zombie has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def children_of(pid: int) -> Sequence[int]:
    """Return the direct children of a process."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]
