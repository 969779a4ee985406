"""How busy this process is: whether one more thread would get anything done."""

from __future__ import annotations

import time

# A measurement over less than this says little, and nobody waits for it for long.
WINDOW_SECONDS = 0.005
# Of one processor. Python's threads compute one at a time, and with more of them each waits longer for the interpreter
# and the database: measured with jobs that compute and write, from half on one more costs more than it adds.
FULL_SHARE = 0.5


class Load:
    """The share of one processor that the process has used lately. Not safe for threads: the caller has a lock."""

    def __init__(self) -> None:
        self._is_full: bool | None = None
        self._reset()

    def measure(self) -> bool | None:
        """Whether the process computes as much as it can; None when that has not been measured for long enough."""
        now, computed = time.monotonic(), time.process_time()
        if now - self._at >= WINDOW_SECONDS:
            self._is_full = computed - self._computed > FULL_SHARE * (now - self._at)
            self._at, self._computed = now, computed
        return self._is_full

    def forget(self) -> None:
        """Begins anew: another thread has just begun, and what was measured before says nothing of it."""
        self._is_full = None
        self._reset()

    def _reset(self) -> None:
        self._at, self._computed = time.monotonic(), time.process_time()
