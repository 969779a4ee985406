"""How far a notification has come, for its pages: the numbers of its deliveries in a few groups, and their bar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.notifications.models import DeliveryState
from flask_belfry.core.bars import Segment, segments

DELIVERED, FAILED, NOT_SENT, WAITING = "delivered", "failed", "not sent", "waiting"
GROUPS: Mapping[DeliveryState, str] = {
    DeliveryState.DELIVERED: DELIVERED,
    DeliveryState.FAILED: FAILED,
    DeliveryState.BOUNCED: FAILED,
    DeliveryState.SKIPPED: NOT_SENT,
    DeliveryState.CANCELLED: NOT_SENT,
    DeliveryState.QUEUED: WAITING,
    DeliveryState.HELD: WAITING,
    DeliveryState.DEFERRED: WAITING,
}

Counts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Outcome:
    """The numbers of deliveries by group, and the segments of their bar; what is left of it waits."""

    sizes: Mapping[str, int]
    total: int
    segments: list[Segment]
    is_sending: bool

    @property
    def ended(self) -> int:
        """The number of deliveries that do not wait any more."""
        return self.total - self.sizes[WAITING]


def outcome_of(counts: Counts, *, is_sending: bool, expected: int = 0) -> Outcome:
    """Return the outcome of a notification.

    Args:
        counts: the numbers of its deliveries by channel and state.
        is_sending: whether deliveries may still be added.
        expected: the number of deliveries when all have been added; those that are missing wait.
    """
    sizes: dict[str, int] = dict.fromkeys((DELIVERED, FAILED, NOT_SENT, WAITING), 0)
    for numbers in counts.values():
        for state, number in numbers.items():
            sizes[GROUPS[DeliveryState(state)]] += number
    made = sum(sizes.values())
    total = max(made, expected) if is_sending else made
    sizes[WAITING] += total - made
    drawn = {name: sizes[name] for name in (DELIVERED, FAILED, NOT_SENT)}
    return Outcome(sizes, total, segments(drawn, total), is_sending)
