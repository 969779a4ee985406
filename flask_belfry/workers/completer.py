"""The batch completer: jobs that changed nothing are completed together, all that ended during the last commit."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from flask_belfry.execution.claim import Claim

log = structlog.get_logger(__name__)

Completion = tuple[Claim, str | None]


class BatchCompleter:
    """A thread that commits completions while the threads that ran the jobs continue.

    Args:
        commit: completes these jobs and commits. It handles every error that concerns them.
    """

    def __init__(self, commit: Callable[[list[Completion]], None]) -> None:
        self._commit = commit
        self._waiting: list[Completion] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="completer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, item: Claim, result: str | None) -> None:
        """Complete a job with the next commit."""
        with self._changed:
            self._waiting.append((item, result))
            self._changed.notify()

    def close(self) -> None:
        """Commit what waits, end the thread and wait for it."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while completions := self._next():
            try:
                self._commit(completions)
            except BaseException:
                log.exception("worker.thread_failed", jobs=len(completions))

    def _next(self) -> list[Completion]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            completions, self._waiting = self._waiting, []
            return completions
