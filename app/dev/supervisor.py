"""Keeps several processes running in one terminal: prints what they say, starts again what dies, stops all
of them in order. Which processes they are stands in Procfile.dev."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from honcho.colour import get_colours
from honcho.printer import Message, Printer

# A process that dies this soon after its start, this often in a row, will not run by trying again.
EARLY_DEATH_SECONDS = 10
EARLY_DEATHS = 5
RESTART_DELAY_SECONDS = 1
READY_SECONDS = 15
WATCH_SECONDS = 1.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Say = Callable[[str, bytes], None]


class Service:
    """One line of a Procfile as a running process."""

    def __init__(
        self,
        name: str,
        command: str,
        root: Path,
        environ: Mapping[str, str],
        reload_signal: signal.Signals | None = None,
    ) -> None:
        self.name = name
        self.reload_signal = reload_signal
        self.early_deaths = 0
        self.is_reloading = False
        self._command = command
        self._root = root
        self._environ = dict(environ)
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    def start(self, say: Say) -> None:
        """Starts the process; a thread hands each of its lines to `say`."""
        self._started_at = time.monotonic()
        self.is_reloading = False
        # In a session of its own, Ctrl-C reaches it only through the supervisor, which stops things in order.
        self._process = subprocess.Popen(
            ["sh", "-c", f"exec {_end_with_parent()}{self._command}"],
            cwd=self._root,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        threading.Thread(target=self._forward, args=(self._process, say), daemon=True).start()

    def _forward(self, process: subprocess.Popen[bytes], say: Say) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            say(self.name, line)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def note_death(self) -> str:
        """Counts an early death and returns the end in words."""
        died_early = time.monotonic() - self._started_at < EARLY_DEATH_SECONDS
        self.early_deaths = self.early_deaths + 1 if died_early else 0
        code = self._process.returncode if self._process else 0
        return f"{self.name} was killed by signal {-code}" if code < 0 else f"{self.name} ended with status {code}"

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process, SIGKILL to all that it started."""
        if self._process is None or not self.is_running:
            return
        with suppress(ProcessLookupError):
            (os.killpg if number == signal.SIGKILL else os.kill)(self._process.pid, number)


def _end_with_parent() -> str:
    """A prefix that lets a command end when the supervisor is killed, where the system can do that."""
    return "setpriv --pdeathsig TERM -- " if shutil.which("setpriv") else ""


class Supervisor:
    """Runs services until a stop signal.

    Args:
        services: in the order in which they start; they stop in the opposite one.
        foundation: names of those that start before, and stop after, all others.
        is_foundation_ready: called until it is true before the others start.
        grace_seconds: how long a stopping service may take before it is killed.
        code_version: changes with the code; the services that have a `reload_signal` then get it.
    """

    def __init__(
        self,
        services: Sequence[Service],
        foundation: Sequence[str],
        is_foundation_ready: Callable[[], bool],
        grace_seconds: float,
        code_version: Callable[[], object] = lambda: None,
    ) -> None:
        self._foundation = [service for service in services if service.name in foundation]
        self._others = [service for service in services if service.name not in foundation]
        self._is_foundation_ready = is_foundation_ready
        self._grace_seconds = grace_seconds
        self._lines: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._colours = dict(zip((service.name for service in services), get_colours(), strict=False))
        self._printer = Printer(width=max(len(service.name) for service in services))
        self._restarts: dict[Service, float] = {}
        self._stop_requests = 0
        self._status = 0
        self._code_version = code_version
        # The version that runs, and the one seen last: an editor's files are written one after the other.
        self._running_version = self._seen_version = code_version()
        self._watch_at = 0.0
        self._has_reloaded = False
        self._waiting_for_code: set[Service] = set()

    def say(self, name: str, line: str | bytes) -> None:
        """Prints a line under a name; usable from any thread."""
        # honcho prints the local time of the terminal, without a zone.
        now = datetime.now().astimezone()
        self._lines.put(Message("line", line, now, name, self._colours.get(name)))

    def run(self) -> int:
        """Returns the exit status: 0 after a stop signal, 1 when a service could not be kept running."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._request_stop)
        self._start(self._foundation)
        self._wait(self._is_foundation_ready, READY_SECONDS)
        self._start(self._others)
        while not self._stop_requests:
            self._print_lines()
            self._reload_changed_code()
            self._restart_the_dead()
        self._stop(self._others)
        self._stop(self._foundation)
        self._print_lines()
        return self._status

    def _request_stop(self, number: int, frame: object) -> None:
        self._stop_requests += 1

    def _start(self, services: Sequence[Service]) -> None:
        for service in services:
            if not self._stop_requests:
                service.start(self.say)

    def _reload_changed_code(self) -> None:
        """Reloads the services once the code has changed and rested."""
        if time.monotonic() < self._watch_at:
            return
        self._watch_at = time.monotonic() + WATCH_SECONDS
        version, before = self._code_version(), self._seen_version
        self._seen_version = version
        if version != before or version == self._running_version:
            return
        self._running_version, self._has_reloaded = version, True
        self._waiting_for_code.clear()
        self.say("belfry", "the code has changed: reloading")
        for service in [*self._foundation, *self._others]:
            if service.reload_signal is not None:
                service.is_reloading, service.early_deaths = service.is_running, 0
                service.signal(service.reload_signal)

    def _restart_the_dead(self) -> None:
        for service in [*self._foundation, *self._others]:
            if service in self._waiting_for_code:
                continue
            if service in self._restarts:
                self._restart_when_due(service)
            elif not service.is_running:
                self._plan_restart(service)

    def _plan_restart(self, service: Service) -> None:
        if service.is_reloading:
            service.start(self.say)
            return
        end = service.note_death()
        if service.early_deaths >= EARLY_DEATHS and self._has_reloaded and service.reload_signal is not None:
            self.say("belfry", f"{end}, {EARLY_DEATHS} times in a row: waiting for a change of the code")
            self._waiting_for_code.add(service)
        elif service.early_deaths >= EARLY_DEATHS:
            self.say("belfry", f"{end}, {EARLY_DEATHS} times in a row: stopping everything")
            self._stop_requests, self._status = 1, 1
        else:
            self.say("belfry", f"{end}: starting it again")
            self._restarts[service] = time.monotonic() + RESTART_DELAY_SECONDS

    def _restart_when_due(self, service: Service) -> None:
        if time.monotonic() >= self._restarts[service]:
            del self._restarts[service]
            service.start(self.say)

    def _stop(self, services: Sequence[Service]) -> None:
        """Asks the services to end; kills them after the grace period, or when a second stop is requested."""
        requests = self._stop_requests
        for service in reversed(services):
            service.signal(signal.SIGTERM)
        self._wait(
            lambda: self._stop_requests > requests or not any(service.is_running for service in services),
            self._grace_seconds,
        )
        for service in services:
            if service.is_running:
                self.say("belfry", f"{service.name} did not stop: killing it")
                service.signal(signal.SIGKILL)

    def _wait(self, condition: Callable[[], bool], limit_seconds: float) -> None:
        deadline = time.monotonic() + limit_seconds
        while not condition() and time.monotonic() < deadline:
            self._print_lines()

    def _print_lines(self) -> None:
        """Prints what was said, waiting a moment for the first line."""
        with suppress(queue.Empty):
            self._printer.write(self._lines.get(timeout=0.1))
            while True:
                self._printer.write(self._lines.get_nowait())
