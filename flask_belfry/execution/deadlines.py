"""Timeouts for jobs that run on threads: an exception raised inside the job from outside, and a last resort."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from flask_belfry.outbox import JobTimeoutError

# A job that sits in C code cannot be reached by an exception; past this, only the end of the process stops it.
STUCK_SECONDS = 10.0
# An exception on its way to a thread arrives when that thread next runs Python.
ARRIVAL_SECONDS = 0.2


@dataclass
class Deadline:
    """One job's time limit on the thread that made it."""

    ends_at: float
    thread_id: int = field(default_factory=threading.get_ident)
    is_active: bool = True
    fired_at: float | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fire_if_over(self, now: float) -> None:
        """Raises JobTimeoutError in the job's thread when its time is up. Does so once."""
        with self.lock:
            if self.is_active and self.fired_at is None and now >= self.ends_at:
                self.fired_at = now
                _raise_in_thread(self.thread_id, JobTimeoutError)

    def finish(self) -> None:
        """Ends the limit. When it has fired and the exception is still on its way, it arrives here, not later."""
        with self.lock:
            self.is_active = False
        arrives_until = time.monotonic() + ARRIVAL_SECONDS
        while self.fired_at is not None and time.monotonic() < arrives_until:
            time.sleep(0.001)

    def is_stuck(self, now: float) -> bool:
        """Whether the job did not react to its timeout."""
        return self.is_active and self.fired_at is not None and now - self.fired_at > STUCK_SECONDS


class Deadlines:
    """The time limits of all jobs that run in this process; somebody calls `check` regularly."""

    def __init__(self) -> None:
        self._active: dict[int, Deadline] = {}

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Lets the block take so long; then JobTimeoutError is raised in it."""
        deadline = Deadline(time.monotonic() + seconds)
        self._active[deadline.thread_id] = deadline
        try:
            yield
            deadline.finish()
        except JobTimeoutError as error:
            deadline.is_active = False
            raise _timeout(seconds) from error
        except BaseException:
            deadline.finish()
            raise
        finally:
            self._active.pop(deadline.thread_id, None)

    def check(self) -> int:
        """Fires the limits that are over.

        Returns:
            the thread whose job is stuck: it did not react, and only the end of the process stops it; else 0.
        """
        now = time.monotonic()
        deadlines = list(self._active.values())
        for deadline in deadlines:
            deadline.fire_if_over(now)
        return next((deadline.thread_id for deadline in deadlines if deadline.is_stuck(now)), 0)


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """The same limit for a job that has its process and main thread to itself: SIGALRM interrupts blocking calls too.

    What computes in C is not reached by it either; there the worker kills the process, a minute later.
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
    """No limit: where the caller waits for the job anyway."""
    yield


def _timeout(seconds: float) -> JobTimeoutError:
    return JobTimeoutError(f"took longer than its {seconds:g} s")


def _raise_in_thread(thread_id: int, error: type[BaseException]) -> None:
    affected = ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(error))
    if affected > 1:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), None)
