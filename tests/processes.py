"""Real processes of the job system, started by tests with the test's settings, and killed by them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


class Processes:
    """Starts processes and sees to it that none outlives its test.

    Args:
        environ: the application's settings.
        folder: where their output goes.
    """

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self._environ = {**os.environ, **environ, "FLASK_APP": "tests.root", "PYTHONPATH": str(ROOT)}
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, **environ: str) -> subprocess.Popen[bytes]:
        """Starts a program of the virtual environment in a process group of its own."""
        output = (self._folder / f"process-{len(self._started)}.log").open("wb")
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

    def run(self, *command: str, seconds: float = 60, **environ: str) -> int:
        """Starts a program and waits for its end; returns its exit status."""
        return self.start(*command, **environ).wait(seconds)

    def worker(self, *options: str, **environ: str) -> subprocess.Popen[bytes]:
        """A worker as the Procfile starts it."""
        return self.start("flask", "jobs", "worker", *options, **environ)

    def scheduler(self, **environ: str) -> subprocess.Popen[bytes]:
        """A scheduler over the test's application."""
        # scheduler.py takes its application from wsgi; here that is the test's.
        program = "import sys, tests.root; sys.modules['wsgi'] = tests.root; import scheduler; scheduler.main()"
        return self.start("python", "-c", program, **environ)

    def output(self) -> str:
        """What all of them have written so far."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self._folder.glob("process-*.log")))

    def kill_all(self) -> None:
        """Ends them all, with what they have started."""
        for process in self._started:
            kill_group(process, signal.SIGKILL)
        for process in self._started:
            process.wait(10)


def kill_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Sends a signal to a process and all its children."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def signal_tree(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Sends a signal to a process and all that descends from it, also what is in a group of its own."""
    tree = psutil.Process(process.pid)
    for member in (tree, *tree.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(number)


def has_ended(pid: int) -> bool:
    """Whether a process is gone; one that nobody has buried counts as such."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def children_of(pid: int) -> Sequence[int]:
    """The direct children of a process."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]
