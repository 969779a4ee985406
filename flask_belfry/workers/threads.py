"""The threads of a threaded worker. Each fetches its next jobs by itself, so that a short job costs no hand-over."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

import structlog

from flask_belfry.execution.claim import Claim

log = structlog.get_logger(__name__)

# The shortest time over which the processor's load is measured.
WINDOW_SECONDS = 0.005
# Of one processor. Python's threads compute one at a time, and with more of them each waits longer for the interpreter
# and the database: measured with jobs that compute and write, from half on one more costs more than it adds.
FULL_SHARE = 0.5


class Load:
    """The share of one processor that the process has used recently. Not thread-safe: the caller holds a lock."""

    def __init__(self) -> None:
        self.reset()

    def measure(self) -> bool | None:
        """Return whether the process computes as much as it can; None until that has been measured long enough."""
        now, computed = time.monotonic(), time.process_time()
        if now - self._at >= WINDOW_SECONDS:
            self._is_full = computed - self._computed > FULL_SHARE * (now - self._at)
            self._at, self._computed = now, computed
        return self._is_full

    def reset(self) -> None:
        """Discard what was measured: another thread has started, which the measurement did not include."""
        self._is_full: bool | None = None
        self._at, self._computed = time.monotonic(), time.process_time()


class JobThreads:
    """A fixed number of threads and the claimed jobs that wait for them.

    As many of them work as keep the process busy: more would only wait for each other, for the interpreter and for
    SQLite's one writer. One idle thread at a time is on standby: it joins in when jobs wait and the working threads
    leave the processor idle. So jobs that compute are run by one or two threads in a row; jobs that wait for something
    have a thread each after a few milliseconds per thread.

    Args:
        count: how many threads.
        cut: removes the next jobs for one thread from those that wait: at least one.
        run: runs them until their new states are committed. It handles every error that concerns them.
        load: measures whether one more thread would get anything done.
        precedence: the rank of a job: those with a lower one pass the others that wait.
    """

    def __init__(
        self,
        count: int,
        cut: Callable[[deque[Claim]], list[Claim]],
        run: Callable[[list[Claim]], None],
        load: Load | None = None,
        precedence: Callable[[Claim], int] = lambda _: 0,
    ) -> None:
        self.count = count
        self._cut = cut
        self._run = run
        self._precedence = precedence
        self._waiting: deque[Claim] = deque()
        self._idle = 0
        self._enough = 0
        self._load = load or Load()
        self._has_standby = self._is_closed = False
        lock = threading.RLock()
        self._has_work = threading.Condition(lock)
        self._changed = threading.Condition(lock)
        # Daemons: past the grace period a worker ends without those that have not finished.
        self._threads = [threading.Thread(target=self._work, name=f"job-{n}", daemon=True) for n in range(count)]

    def start(self) -> None:
        """Start the threads and wait until they are ready."""
        for thread in self._threads:
            thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._idle == self.count)

    def put(self, items: Iterable[Claim]) -> None:
        """Add claimed jobs, to be run in this order of those with the same precedence."""
        with self._has_work:
            self._waiting = deque(sorted([*self._waiting, *items], key=self._precedence))
            self._enough = len(self._waiting) // 2
            self._wake()

    @property
    def unfinished(self) -> int:
        """How many jobs wait, and how many threads work."""
        with self._changed:
            return len(self._waiting) + self.count - self._idle

    def wait_for_capacity(self, seconds: float) -> bool:
        """Wait until a thread is idle and few jobs wait, for at most `seconds`; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(self._has_capacity, seconds)

    def wait_until_done(self, seconds: float) -> bool:
        """Wait until no job runs or waits, for at most `seconds`; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and self._idle == self.count, seconds)

    def withdraw(self) -> list[Claim]:
        """Remove the jobs that no thread has begun, except for the one that is about to begin when no thread works."""
        with self._changed:
            return [self._waiting.pop() for _ in range(len(self._waiting) - self._is_alone())]

    def close(self) -> None:
        """Run what waits, end the threads and wait for them."""
        with self._has_work:
            self._is_closed = True
            self._has_work.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while items := self._next():
            try:
                self._run(items)
            except BaseException:
                log.exception("worker.thread_failed", job=items[0].name)

    def _next(self) -> list[Claim]:
        """Return the next jobs for this thread, which is idle while it waits for them; [] when it must end."""
        with self._has_work:
            self._idle += 1
            if self._has_capacity():
                self._changed.notify()
            if not self._is_alone() and self._load.measure():
                self._wait_for_work()  # the working threads keep the process busy without this one
            while not self._waiting:
                if self._is_closed:
                    return []
                self._wait_for_work()
            items = self._cut(self._waiting)
            self._idle -= 1
            self._wake()
            return items

    def _is_alone(self) -> bool:
        """Whether every thread is idle, this one included."""
        return self._idle == self.count

    def _wait_for_work(self) -> None:
        """Wait until this thread is on standby, and then until one more thread is useful or no job waits."""
        self._has_work.wait_for(lambda: self._is_closed or (self._waiting and not self._has_standby))
        self._has_standby = True
        try:
            while self._waiting and not self._is_alone() and self._load.measure() is not False:
                self._has_work.wait(WINDOW_SECONDS)
            self._load.reset()
        finally:
            self._has_standby = False

    def _wake(self) -> None:
        if self._waiting and self._idle and not self._has_standby:
            self._has_work.notify()

    def _has_capacity(self) -> bool:
        return self._idle > 0 and len(self._waiting) <= self._enough
