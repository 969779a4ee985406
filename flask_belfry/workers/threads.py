"""The threads of a light worker. They take the next jobs by themselves, so that a short one costs no hand-over."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

import structlog

from flask_belfry.execution.claim import Claim
from flask_belfry.workers.load import WINDOW_SECONDS, Load

log = structlog.get_logger(__name__)


class JobThreads:
    """A fixed number of threads and the claimed jobs that wait for them.

    As many of them work as keep the process busy: more would only wait for each other, for the interpreter and for
    SQLite's one writer. One idle thread at a time, the scout, watches over that: it joins in when jobs wait and those
    that work leave the processor idle. So jobs that compute are run by one or two threads in a row, and of jobs that
    wait for something each thread soon has one, a few milliseconds after the thread before.

    Args:
        count: how many threads.
        cut: takes the next jobs for one thread off those that wait: at least one.
        run: runs them, to their ends. It raises nothing that concerns them.
        load: tells whether one more thread would get anything done.
    """

    def __init__(
        self,
        count: int,
        cut: Callable[[deque[Claim]], list[Claim]],
        run: Callable[[list[Claim]], None],
        load: Load | None = None,
    ) -> None:
        self.count = count
        self._cut = cut
        self._run = run
        self._waiting: deque[Claim] = deque()
        self._idle = 0
        self._enough = 0
        self._load = load or Load()
        self._has_scout = self._is_closed = False
        lock = threading.RLock()
        self._work_is_there = threading.Condition(lock)
        self._changed = threading.Condition(lock)
        # Daemons: a worker past its grace ends without those that do not.
        self._threads = [threading.Thread(target=self._work, name=f"job-{n}", daemon=True) for n in range(count)]

    def start(self) -> None:
        """Starts them and waits until they are ready."""
        for thread in self._threads:
            thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._idle == self.count)

    def put(self, items: Iterable[Claim]) -> None:
        """Hands over claimed jobs, to be run in this order."""
        with self._work_is_there:
            self._waiting.extend(items)
            self._enough = len(self._waiting) // 2
            self._wake()

    def wait_until_hungry(self, seconds: float) -> bool:
        """Waits until a thread is idle and few jobs wait; at most so many seconds. Returns whether that is so."""
        with self._changed:
            return self._changed.wait_for(self._is_hungry, seconds)

    def wait_until_done(self, seconds: float) -> bool:
        """Waits until nothing runs and nothing waits; at most so many seconds. Returns whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and self._idle == self.count, seconds)

    def withdraw(self) -> list[Claim]:
        """Takes back the jobs that no thread has begun, but for the one that is about to be when none works yet."""
        with self._changed:
            return [self._waiting.pop() for _ in range(len(self._waiting) - self._is_alone())]

    def close(self) -> None:
        """Ends the threads after what waits, and waits for them."""
        with self._work_is_there:
            self._is_closed = True
            self._work_is_there.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while items := self._next():
            try:
                self._run(items)
            except BaseException:
                log.exception("worker.thread_failed", job=items[0].name)

    def _next(self) -> list[Claim]:
        """The next jobs for this thread, which is idle while it waits for them; none when it is to end."""
        with self._work_is_there:
            self._idle += 1
            if self._is_hungry():
                self._changed.notify()
            if not self._is_alone() and self._load.measure():
                self._wait_for_work()  # those that work go on to keep us busy without this one
            while not self._waiting:
                if self._is_closed:
                    return []
                self._wait_for_work()
            items = self._cut(self._waiting)
            self._idle -= 1
            self._wake()
            return items

    def _is_alone(self) -> bool:
        """Whether no other thread has anything to do."""
        return self._idle == self.count

    def _wait_for_work(self) -> None:
        """Waits until this thread is the scout, and then until there is something to do for it, or nothing any more."""
        self._work_is_there.wait_for(lambda: self._is_closed or (self._waiting and not self._has_scout))
        self._has_scout = True
        try:
            while self._waiting and not self._is_alone() and self._load.measure() is not False:
                self._work_is_there.wait(WINDOW_SECONDS)
            self._load.forget()
        finally:
            self._has_scout = False

    def _wake(self) -> None:
        if self._waiting and self._idle and not self._has_scout:
            self._work_is_there.notify()

    def _is_hungry(self) -> bool:
        return self._idle > 0 and len(self._waiting) <= self._enough
