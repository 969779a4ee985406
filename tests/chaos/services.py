"""The processes of the stack and their manager: what dies is started again, and what it left behind is ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes import BIN, ROOT, children_of

WATCH_SECONDS = 0.1
# Should the chaos itself be killed, nothing outlives it, where the system can do that.
END_WITH_PARENT = "setpriv --pdeathsig TERM -- " if shutil.which("setpriv") else ""
RESTART_SECONDS = 1.0
# Of a process that was killed, or asked to end, perhaps before it had begun.
GOOD_ENDS = (-signal.SIGKILL, 0, -signal.SIGTERM)


@dataclass(frozen=True)
class Kill:
    """A process that was killed: `pid` is the one in its worker's name, for a work horse that of its parent."""

    pid: int
    at: float


@dataclass
class Service:
    """One line of the Procfile as a running process, in a session of its own.

    Args:
        name: what faults call it.
        command: as the shell takes it.
        environ: its whole environment.
        log: the file to which its output is added.
    """

    name: str
    command: str
    environ: Mapping[str, str]
    log: Path
    is_expected_to_end: bool = False
    died_at: float | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        """The process that the manager started."""
        assert self._process is not None, f"{self.name} is not started"
        return self._process.pid

    @property
    def children(self) -> Sequence[int]:
        """Its direct children; none when it is gone."""
        try:
            return children_of(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return []

    def start(self) -> None:
        """Starts it, after ending what its last process left behind."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                ["sh", "-c", f"exec {END_WITH_PARENT}{self.command}"],
                cwd=ROOT,
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.is_expected_to_end, self.died_at = False, None

    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return None if self._process is None else self._process.poll()

    def wait(self, seconds: float) -> int | None:
        """Its exit status once it has ended; None when it has not within `seconds`."""
        assert self._process is not None, f"{self.name} is not started"
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def members(self) -> list[int]:
        """All processes of its session, also those that outlived it."""
        return [] if self._process is None else [pid for pid in _pids() if _session_of(pid) == self.pid]


class Manager:
    """Starts services, and again when they end.

    `kills` says which processes were killed and when, `own_ends` which ended without being struck, or badly.
    """

    def __init__(self, services: Sequence[Service]) -> None:
        self.services = {service.name: service for service in services}
        self.kills: list[Kill] = []
        self.own_ends: list[str] = []
        self._retired: set[str] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="manager", daemon=True)

    def start(self) -> None:
        """Starts them all and begins to watch."""
        for service in self.services.values():
            service.start()
        self._thread.start()

    def kill(self, pid: int, worker_pid: int | None = None) -> None:
        """SIGKILL, with a note of it.

        Args:
            pid: the process.
            worker_pid: the one in its worker's name, when that is another.
        """
        with suppress(ProcessLookupError):
            self.kills.append(Kill(worker_pid or pid, time.time()))
            os.kill(pid, signal.SIGKILL)

    def retire(self, name: str) -> Service:
        """Does not start a service again; it may still run."""
        with self._lock:
            self._retired.add(name)
        return self.services[name]

    def stop(self, grace_seconds: float) -> list[str]:
        """Asks all services to end as a deploy does, and kills what does not; returns the names of those."""
        with self._lock:
            self._stopping.set()
        late: list[str] = []
        for service in self.services.values():
            _signal(service.members(), signal.SIGCONT)
            if service.status() is None:
                _signal([service.pid], signal.SIGTERM)
        ends_at = time.monotonic() + grace_seconds
        for service in self.services.values():
            if service.wait(max(0.0, ends_at - time.monotonic())) is None:
                late.append(service.name)
            _signal(service.members(), signal.SIGKILL)
            service.wait(10)
        return late

    def kill_all(self) -> None:
        """Ends everything at once."""
        with self._lock:
            self._stopping.set()
        for service in self.services.values():
            _signal(service.members(), signal.SIGKILL)

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_SECONDS):
            for service in self.services.values():
                with self._lock:
                    if self._stopping.is_set() or service.name in self._retired:
                        continue
                    if (status := service.status()) is not None:
                        self._bring_back(service, status)
        # What a thread has started ends with it, see END_WITH_PARENT.
        threading.Event().wait()

    def _bring_back(self, service: Service, status: int) -> None:
        if service.died_at is None:
            service.died_at = time.monotonic()
            if not (service.is_expected_to_end and status in GOOD_ENDS):
                asked = " when it was asked to" if service.is_expected_to_end else ""
                self.own_ends.append(f"{service.name} ended with status {status}{asked}")
        elif time.monotonic() - service.died_at >= RESTART_SECONDS:
            for pid in service.members():
                self.kill(pid)
                self.kill(pid, service.pid)
            service.start()


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _session_of(pid: int) -> int | None:
    with suppress(ProcessLookupError):
        return os.getsid(pid)
    return None


def environment() -> dict[str, str]:
    """This process's environment with the virtual environment's programs first."""
    return {**os.environ, "PATH": f"{BIN}:{os.environ.get('PATH', '')}", "PYTHONPATH": str(ROOT)}
