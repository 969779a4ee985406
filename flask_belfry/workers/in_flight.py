"""The claims that a worker process holds."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterable

from flask_belfry.execution.claim import Claim


class InFlightJobs:
    """The claims of one worker, from the claim until their ends are committed; used by all of its threads."""

    def __init__(self) -> None:
        self._by_id: dict[str, Claim] = {}
        self._by_queue: Counter[str] = Counter()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._by_id)

    def of_queue(self, queue: str) -> int:
        """How many of them came from this queue."""
        return self._by_queue[queue]

    def claims(self) -> list[Claim]:
        """All of them."""
        with self._changed:
            return list(self._by_id.values())

    def add(self, items: Iterable[Claim]) -> None:
        """Takes note of new claims; one on a record that was taken away from this worker replaces the lost one."""
        with self._changed:
            for item in items:
                self._discard(self._by_id.get(item.id))
                self._by_id[item.id] = item
                self._by_queue[item.queue] += 1

    def discard(self, items: Collection[Claim]) -> None:
        """Forgets claims that are ended or lost, unless the record has been claimed anew."""
        with self._changed:
            for item in items:
                if self._by_id.get(item.id) is item:
                    self._discard(item)
            self._changed.notify_all()

    def wait_until_fewer(self, seconds: float) -> None:
        """Waits until some are discarded, at most so many seconds."""
        with self._changed:
            self._changed.wait(seconds)

    def _discard(self, item: Claim | None) -> None:
        if item is not None:
            del self._by_id[item.id]
            self._by_queue[item.queue] -= 1
