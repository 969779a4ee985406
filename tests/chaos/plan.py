"""Which fault strikes when, and for how long: drawn from the seed alone, so that a seed gives the same faults again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

# A process or server that was struck is spared for so long: it starts again, and is to do something.
REST_SECONDS = 4.0


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        name: what is done to whom.
        targets: the names of services or servers; one of them is struck.
        seconds: how long it lasts, from and to; 0 for a blow.
    """

    name: str
    targets: tuple[str, ...]
    seconds: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Planned:
    """One fault of a plan.

    Args:
        at: seconds after the beginning.
        kind: what happens.
        target: to whom.
        seconds: for how long.
        lot: a number that chooses among several processes of the target.
    """

    at: float
    kind: Kind
    target: str
    seconds: float
    lot: int


@dataclass(frozen=True)
class Prefetch:
    """How faults follow each other: bursts, and calms between them in which a rescue can be timed.

    Args:
        gap_seconds: between two faults of a burst, from and to.
        calm_seconds: between two bursts, from and to.
        calms: the share of the gaps that are calms.
    """

    gap_seconds: tuple[float, float]
    calm_seconds: tuple[float, float]
    calms: float


def plan(seed: str, count: int, kinds: Sequence[Kind], pace: Prefetch) -> list[Planned]:
    """Draws `count` faults: every kind once before any comes again, and none on a target that still suffers."""
    dice = random.Random(seed)
    planned: list[Planned] = []
    free_at: dict[str, float] = {}
    deck: list[Kind] = []
    at = 0.0
    for _ in range(count):
        if not deck:
            deck = dice.sample(list(kinds), len(kinds))
        at += dice.uniform(*(pace.calm_seconds if dice.random() < pace.calms else pace.gap_seconds))
        # The first of the deck whose target is free; when none is, the next one waits.
        kind = next((kind for kind in deck if _first_free(kind, free_at) <= at), deck[0])
        deck.remove(kind)
        at = max(at, _first_free(kind, free_at))
        target = dice.choice([target for target in kind.targets if free_at.get(target, 0.0) <= at])
        seconds = dice.uniform(*kind.seconds)
        free_at[target] = at + seconds + REST_SECONDS
        planned.append(Planned(at, kind, target, seconds, dice.randrange(1_000)))
    return planned


def _first_free(kind: Kind, free_at: dict[str, float]) -> float:
    return min(free_at.get(target, 0.0) for target in kind.targets)
