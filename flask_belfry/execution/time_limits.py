"""Time limits of jobs: on threads an exception that is raised in the job from outside, in a process an alarm."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from flask_belfry.outbox import JobTimeoutError

# An exception does not reach a job in native code; after this time only the end of the process stops it.
STUCK_SECONDS = 10.0
# An exception on its way to a thread arrives when that thread next runs Python.
ARRIVAL_SECONDS = 0.2


@dataclass
class TimeLimit:
    """The time limit of one job on the thread that created it."""

    ends_at: float
    thread_id: int = field(default_factory=threading.get_ident)
    is_active: bool = True
    fired_at: float | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fire_if_over(self, now: float) -> None:
        """Raise JobTimeoutError in the job's thread, once, when the time is over."""
        with self.lock:
            if self.is_active and self.fired_at is None and now >= self.ends_at:
                self.fired_at = now
                _raise_in_thread(self.thread_id, JobTimeoutError)

    def finish(self) -> None:
        """End the limit. An exception that has been raised but has not arrived yet arrives in this call, not later."""
        with self.lock:
            self.is_active = False
        arrives_until = time.monotonic() + ARRIVAL_SECONDS
        while self.fired_at is not None and time.monotonic() < arrives_until:
            time.sleep(0.001)

    def is_stuck(self, now: float) -> bool:
        """Return whether the job did not react to its time limit."""
        return self.is_active and self.fired_at is not None and now - self.fired_at > STUCK_SECONDS


class TimeLimits:
    """The time limits of all jobs that run in this process; the watchdog calls `check` regularly."""

    def __init__(self) -> None:
        self._active: dict[int, TimeLimit] = {}

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Raise JobTimeoutError in the block after `seconds`."""
        limit = TimeLimit(time.monotonic() + seconds)
        self._active[limit.thread_id] = limit
        try:
            yield
            limit.finish()
        except JobTimeoutError as error:
            limit.is_active = False
            raise _timeout(seconds) from error
        except BaseException:
            limit.finish()
            raise
        finally:
            self._active.pop(limit.thread_id, None)

    def check(self) -> int:
        """Enforce the limits that are over.

        Returns:
            the thread whose job is stuck: it did not react, and only the end of the process stops it; else 0.
        """
        now = time.monotonic()
        limits = list(self._active.values())
        for limit in limits:
            limit.fire_if_over(now)
        return next((limit.thread_id for limit in limits if limit.is_stuck(now)), 0)


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise JobTimeoutError in the block after `seconds`, on the main thread of a process that runs nothing else.

    SIGALRM interrupts blocking calls too. Native code that computes is not interrupted: its worker kills the process, a
    minute later.
    """

    def ring(signal_number: int, frame: object) -> None:
        raise _timeout(seconds)

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def no_limit(seconds: float) -> Iterator[None]:
    """Apply no limit, for a caller that waits for the job."""
    yield


def _timeout(seconds: float) -> JobTimeoutError:
    return JobTimeoutError(f"took longer than its {seconds:g} s")


def _raise_in_thread(thread_id: int, error: type[BaseException]) -> None:
    affected = ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(error))
    if affected > 1:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), None)
