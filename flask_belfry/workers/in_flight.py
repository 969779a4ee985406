"""The jobs in flight in a worker process."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterable

from flask_belfry.execution.claim import Claim


class InFlightJobs:
    """The claims of one worker, from the claim until their new states are committed; used by all of its threads."""

    def __init__(self) -> None:
        self._by_id: dict[str, Claim] = {}
        self.by_queue: Counter[str] = Counter()  # how many came from each queue
        self.ended = 0  # how many were discarded, without those that were released
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._by_id)

    def claims(self) -> list[Claim]:
        """Return all of them."""
        with self._changed:
            return list(self._by_id.values())

    def add(self, items: Iterable[Claim]) -> None:
        """Add new claims; a second claim of a record, which this worker had lost, replaces the first."""
        with self._changed:
            for item in items:
                self._discard(self._by_id.get(item.id))
                self._by_id[item.id] = item
                self.by_queue[item.queue] += 1

    def discard(self, items: Collection[Claim], *, are_released: bool = False) -> None:
        """Remove claims that are finished, lost or released, but not a later claim of the same record."""
        with self._changed:
            for item in items:
                if self._by_id.get(item.id) is item:
                    self._discard(item)
                    self.ended += not are_released
            self._changed.notify_all()

    def wait_until_fewer(self, seconds: float) -> None:
        """Wait until some are discarded, for at most `seconds`."""
        with self._changed:
            self._changed.wait(seconds)

    def _discard(self, item: Claim | None) -> None:
        if item is not None:
            del self._by_id[item.id]
            self.by_queue[item.queue] -= 1
