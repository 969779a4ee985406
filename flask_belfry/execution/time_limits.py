"""Time limits of jobs: on threads an exception that is raised in the job from outside, in a process an alarm."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from flask_belfry.outbox import JobTimeoutError

# An exception does not reach a job in native code; after this time only the end of the process stops it.
STUCK_SECONDS = 10.0
# An exception on its way to a thread arrives when that thread next runs Python.
ARRIVAL_SECONDS = 0.2


class PageLimit(Protocol):
    """The time limit of a running job, which counts for each page of its steps."""

    def pause(self) -> None:
        """Stop counting, for the commit of a page."""
        ...

    def restart(self) -> None:
        """Count from 0, for the next page."""
        ...


@dataclass
class TimeLimit:
    """The time limit of one job on the thread that created it."""

    seconds: float
    ends_at: float = field(init=False)
    thread_id: int = field(default_factory=threading.get_ident)
    is_active: bool = True
    fired_at: float | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.ends_at = time.monotonic() + self.seconds

    def fire_if_over(self, now: float) -> None:
        """Raise JobTimeoutError in the job's thread, once, when the time is over."""
        with self.lock:
            if self.is_active and self.fired_at is None and now >= self.ends_at:
                self.fired_at = now
                _raise_in_thread(self.thread_id, JobTimeoutError)

    def pause(self) -> None:
        """Stop the limit. An exception that has been raised but has not arrived yet arrives in this call, not later."""
        with self.lock:
            self.is_active = False
        arrives_until = time.monotonic() + ARRIVAL_SECONDS
        while self.fired_at is not None and time.monotonic() < arrives_until:
            time.sleep(0.001)

    def restart(self) -> None:
        """Begin the limit again."""
        with self.lock:
            self.ends_at, self.fired_at, self.is_active = time.monotonic() + self.seconds, None, True

    def is_stuck(self, now: float) -> bool:
        """Return whether the job did not react to its time limit."""
        return self.is_active and self.fired_at is not None and now - self.fired_at > STUCK_SECONDS


class TimeLimits:
    """The time limits of all jobs that run in this process; the watchdog calls `check` regularly."""

    def __init__(self) -> None:
        self._active: dict[int, TimeLimit] = {}

    @contextmanager
    def limit(self, seconds: float) -> Iterator[PageLimit]:
        """Raise JobTimeoutError in the block after `seconds`."""
        limit = TimeLimit(seconds)
        self._active[limit.thread_id] = limit
        try:
            yield limit
            limit.pause()
        except JobTimeoutError as error:
            limit.is_active = False
            raise _timeout(seconds) from error
        except BaseException:
            limit.pause()
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


@dataclass(frozen=True)
class Alarm:
    """The time limit of the job of a process. `note_restart` is called with each page."""

    seconds: float
    note_restart: Callable[[], None]

    def pause(self) -> None:
        """Stop the limit."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def restart(self) -> None:
        """Begin the limit again."""
        self.note_restart()
        signal.setitimer(signal.ITIMER_REAL, self.seconds)


@contextmanager
def alarm(seconds: float, note_restart: Callable[[], None] = lambda: None) -> Iterator[PageLimit]:
    """Raise JobTimeoutError in the block after `seconds`, on the main thread of a process that runs nothing else.

    SIGALRM interrupts blocking calls too. Native code that computes is not interrupted: its worker kills the process, a
    minute later.

    Args:
        seconds: the limit.
        note_restart: called when it begins again, with a page of steps.
    """

    def ring(signal_number: int, frame: object) -> None:
        raise _timeout(seconds)

    previous = signal.signal(signal.SIGALRM, ring)
    limit = Alarm(seconds, note_restart)
    limit.restart()
    try:
        yield limit
    finally:
        limit.pause()
        signal.signal(signal.SIGALRM, previous)


class NoLimit:
    """No time limit."""

    def pause(self) -> None:
        """Do nothing."""

    def restart(self) -> None:
        """Do nothing."""


@contextmanager
def no_limit(seconds: float) -> Iterator[PageLimit]:
    """Apply no limit, for a caller that waits for the job."""
    yield NoLimit()


def _timeout(seconds: float) -> JobTimeoutError:
    return JobTimeoutError(f"took longer than its {seconds:g} s")


def _raise_in_thread(thread_id: int, error: type[BaseException]) -> None:
    affected = ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(error))
    if affected > 1:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), None)
