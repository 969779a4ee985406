"""Group commit: the ends of jobs that changed nothing are written together, all that came during the last commit."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from flask_belfry.execution.claim import Claim

log = structlog.get_logger(__name__)

Done = tuple[Claim, str | None]


class GroupCommit:
    """A thread that commits the ends of finished jobs, while the threads that ran them go on.

    Args:
        commit: writes and commits the ends of these jobs. It raises nothing that concerns them.
    """

    def __init__(self, commit: Callable[[list[Done]], None]) -> None:
        self._commit = commit
        self._waiting: list[Done] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="commits", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def add(self, item: Claim, result: str | None) -> None:
        """Has the end of a job written soon."""
        with self._changed:
            self._waiting.append((item, result))
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread after what waits, and waits for it."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while done := self._next():
            try:
                self._commit(done)
            except BaseException:
                log.exception("worker.thread_failed", jobs=len(done))

    def _next(self) -> list[Done]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            done, self._waiting = self._waiting, []
            return done
