"""No-op jobs of one batch, beside the same jobs without one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from bench.cases.noop import drain
from bench.contestants import Desk
from bench.figures import Comparison, Quantity
from bench.ground import Grounds
from bench.plan import Plan

RATE, ENQUEUE = Quantity("batch", "jobs/s"), Quantity("batch_enqueue", "s")
JOBS = 10_000


def batch(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """Jobs per second, and the seconds to enqueue them in one commit: as a batch, and without one."""
    steps = {plan.belfry.name: "enqueue_batch", "without_batch": "enqueue_together"}
    for database in plan.databases:
        count = plan.scaled(JOBS)
        measures = {
            name: partial(_measure, grounds, plan.belfry, database, count, step) for name, step in steps.items()
        }
        yield from plan.compare(database, measures)


def _measure(grounds: Grounds, belfry: Desk, database: str, count: int, step: str) -> Mapping[Quantity, float]:
    with grounds.fresh(database) as ground:
        belfry.step(ground, "prepare", 1)
        enqueued = belfry.step(ground, step, count)
        return {ENQUEUE: enqueued["seconds"], RATE: drain(ground, belfry, database, count)}
