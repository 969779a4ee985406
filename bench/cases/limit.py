"""No-op jobs with a limit of running jobs, beside the same jobs without one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench.cases.noop import drained_rate
from bench.figures import Comparison, Quantity
from bench.ground import Grounds
from bench.plan import Plan

JOBS = 3_000
LIMITED, UNLIMITED = Quantity("limit", "jobs/s"), Quantity("limit_without", "jobs/s")


def limit(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """Jobs per second with `running=8`, and without a limit."""
    steps = {LIMITED: "enqueue_limited", UNLIMITED: "enqueue_noops"}
    for database in plan.databases:
        for quantity, step in steps.items():
            measure = partial(drained_rate, grounds, plan.belfry, database, plan.scaled(JOBS), step, quantity)
            yield from plan.compare(database, {plan.belfry.name: measure})
