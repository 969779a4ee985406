"""What a large backlog costs what runs beside it: the same few milliseconds, however many jobs wait."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from bench.figures import Comparison, Quantity
from bench.ground import Grounds
from bench.plan import Plan

PENDING = 2_000, 20_000, 200_000


def backlog(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """A pass of the relay, the choice and claim of ten jobs, and the enqueuing of one, beside few and many jobs."""
    for database in plan.databases:
        for pending in map(plan.scaled, PENDING):
            measure = partial(_beside, grounds, plan, database, pending)
            yield from plan.compare(database, {plan.belfry.name: measure})


def _beside(grounds: Grounds, plan: Plan, database: str, pending: int) -> Mapping[Quantity, float]:
    with grounds.fresh(database) as ground:
        plan.belfry.step(ground, "prepare", 1)
        taken = plan.belfry.step(ground, "work_beside_backlog", pending)
        return {Quantity(f"backlog_{pending}_{name}", "ms"): seconds * 1e3 for name, seconds in taken.items()}
