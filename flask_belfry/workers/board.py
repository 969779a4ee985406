"""Memory in which a worker process publishes its pulse and its running jobs to its parent, also when it hangs."""

from __future__ import annotations

import mmap
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

PULSE_SECONDS = 0.5

_PULSE = struct.Struct("Q")
_STUCK = struct.Struct("Q")
_NAME = struct.Struct("80s")
# The kernel's id of the thread and Python's, and how many jobs it runs; their ids follow.
_SLOT = struct.Struct("QQQ")
_ID_BYTES = 16


@dataclass(frozen=True)
class RunningThread:
    """A thread that runs jobs: its id in the kernel, its id in Python, and the ids of the jobs."""

    native_id: int
    ident: int
    ids: tuple[str, ...]


class Board:
    """Created by the parent before the fork, written by the worker, read by the parent.

    Args:
        threads: how many threads may run jobs.
        most: how many jobs one of them may run at once.
        quarantine: one byte shared by all processes of a parent: whether quarantined jobs wait; None without a parent.
    """

    def __init__(self, threads: int, most: int, quarantine: mmap.mmap | None = None) -> None:
        self._slot_size = _SLOT.size + most * _ID_BYTES
        self._first_slot = _PULSE.size + _STUCK.size + _NAME.size
        self._memory = mmap.mmap(-1, self._first_slot + threads * self._slot_size)
        self._slots: dict[int, int] = {}
        self._lock = threading.Lock()
        self._threads = threads
        self._quarantine = quarantine

    @property
    def is_watched(self) -> bool:
        """Whether there is a parent, which also starts a worker for quarantined jobs."""
        return self._quarantine is not None

    @property
    def pulse(self) -> int:
        """A number that increases as long as the process runs Python."""
        return _PULSE.unpack_from(self._memory, 0)[0]

    @property
    def name(self) -> str:
        """The worker's name; empty until it is set."""
        return _NAME.unpack_from(self._memory, _PULSE.size + _STUCK.size)[0].rstrip(b"\0").decode(errors="replace")

    @name.setter
    def name(self, name: str) -> None:
        _NAME.pack_into(self._memory, _PULSE.size + _STUCK.size, name.encode())

    @property
    def stuck_thread(self) -> int:
        """Python's id of the thread whose job does not react to its time limit; 0 when there is none."""
        return _STUCK.unpack_from(self._memory, _PULSE.size)[0]

    @stuck_thread.setter
    def stuck_thread(self, ident: int) -> None:
        _STUCK.pack_into(self._memory, _PULSE.size, ident)

    def start_pulse(self) -> None:
        """Start the thread that increases the pulse, which stops while another thread holds the interpreter."""
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def call_quarantine(self) -> None:
        """Request a worker for quarantined jobs from the parent."""
        if self._quarantine is not None:
            self._quarantine[0] = 1

    @contextmanager
    def running(self, ids: Sequence[str]) -> Iterator[None]:
        """Publish that this thread runs these jobs during the block."""
        ident = threading.get_ident()
        with self._lock:
            at = self._first_slot + self._slots.setdefault(ident, len(self._slots)) * self._slot_size
        written = b"".join(UUID(id).bytes for id in ids)
        self._memory[at + _SLOT.size : at + _SLOT.size + len(written)] = written
        # Last, so that the reader finds all of it or nothing.
        _SLOT.pack_into(self._memory, at, threading.get_native_id(), ident, len(ids))
        try:
            yield
        finally:
            _SLOT.pack_into(self._memory, at, 0, 0, 0)

    def read(self) -> list[RunningThread]:
        """Return the threads that run jobs."""
        found = []
        for slot in range(self._threads):
            at = self._first_slot + slot * self._slot_size
            native_id, ident, count = _SLOT.unpack_from(self._memory, at)
            at += _SLOT.size
            ids = [self._memory[n : n + _ID_BYTES] for n in range(at, at + count * _ID_BYTES, _ID_BYTES)]
            if ids:
                found.append(RunningThread(native_id, ident, tuple(str(UUID(bytes=id)) for id in ids)))
        return found

    def _beat(self) -> None:
        while True:
            _PULSE.pack_into(self._memory, 0, self.pulse + 1)
            time.sleep(PULSE_SECONDS)
