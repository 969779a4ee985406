"""Supervisor of several processes in one terminal: prints their output, restarts those that exit, and stops all in
order. Procfile.dev lists the processes."""

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

# A process that exits this soon after its start, this often in a row, is not restarted.
EARLY_EXIT_SECONDS = 10
EARLY_EXITS = 5
RESTART_DELAY_SECONDS = 1
READY_SECONDS = 15
WATCH_SECONDS = 1.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Say = Callable[[str, bytes], None]


class Service:
    """A line of a Procfile as a running process."""

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
        self.early_exits = 0
        self.is_reloading = False
        self._command = command
        self._root = root
        self._environ = dict(environ)
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    def start(self, say: Say) -> None:
        """Start the process; a thread passes each line of its output to `say`."""
        self._started_at = time.monotonic()
        self.is_reloading = False
        # In its own session, Ctrl-C does not reach it directly: the supervisor stops processes in order.
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

    def note_exit(self) -> str:
        """Count an early exit and return a description of the exit."""
        is_early = time.monotonic() - self._started_at < EARLY_EXIT_SECONDS
        self.early_exits = self.early_exits + 1 if is_early else 0
        code = self._process.returncode if self._process else 0
        return f"{self.name} was killed by signal {-code}" if code < 0 else f"{self.name} exited with status {code}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process; SIGKILL also to its children."""
        if self._process is None or not self.is_running:
            return
        with suppress(ProcessLookupError):
            (os.killpg if number == signal.SIGKILL else os.kill)(self._process.pid, number)


def _end_with_parent() -> str:
    """Return a prefix that stops a command when the supervisor is killed, if the system supports it."""
    return "setpriv --pdeathsig TERM -- " if shutil.which("setpriv") else ""


class Supervisor:
    """Runs services until a stop signal.

    Args:
        services: in the order of their start; they stop in reverse order.
        foundation: names of services that start before and stop after all others.
        is_foundation_ready: polled until true before the others start.
        grace_seconds: time after which a stopping service is killed.
        code_version: changes with the code; services with a `reload_signal` then receive it.
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
        # The running version, and the last one seen: an editor writes files one after the other.
        self._running_version = self._seen_version = code_version()
        self._watch_at = 0.0
        self._has_reloaded = False
        self._waiting_for_code: set[Service] = set()

    def say(self, name: str, line: str | bytes) -> None:
        """Print a line under a name, from any thread."""
        # honcho prints the local time of the terminal, without a zone.
        now = datetime.now().astimezone()
        self._lines.put(Message("line", line, now, name, self._colours.get(name)))

    def run(self) -> int:
        """Run and return the exit status: 0 after a stop signal, 1 if a service cannot be kept running."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._request_stop)
        self._start(self._foundation)
        self._wait(self._is_foundation_ready, READY_SECONDS)
        self._start(self._others)
        while not self._stop_requests:
            self._print_lines()
            self._reload_changed_code()
            self._restart_exited()
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
        """Reload the services once the code has changed and is stable."""
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
                service.is_reloading, service.early_exits = service.is_running, 0
                service.signal(service.reload_signal)

    def _restart_exited(self) -> None:
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
        end = service.note_exit()
        if service.early_exits >= EARLY_EXITS and self._has_reloaded and service.reload_signal is not None:
            self.say("belfry", f"{end}, {EARLY_EXITS} times in a row: waiting for a change of the code")
            self._waiting_for_code.add(service)
        elif service.early_exits >= EARLY_EXITS:
            self.say("belfry", f"{end}, {EARLY_EXITS} times in a row: stopping all processes")
            self._stop_requests, self._status = 1, 1
        else:
            self.say("belfry", f"{end}: restarting it")
            self._restarts[service] = time.monotonic() + RESTART_DELAY_SECONDS

    def _restart_when_due(self, service: Service) -> None:
        if time.monotonic() >= self._restarts[service]:
            del self._restarts[service]
            service.start(self.say)

    def _stop(self, services: Sequence[Service]) -> None:
        """Terminate the services; kill them after the grace period, or on a second stop signal."""
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
        """Print waiting lines, with a short wait for the first one."""
        with suppress(queue.Empty):
            self._printer.write(self._lines.get(timeout=0.1))
            while True:
                self._printer.write(self._lines.get_nowait())
