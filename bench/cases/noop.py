"""Jobs that do nothing, two processes: what remains is the job system."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial

from bench.contestants import Desk, Queue
from bench.errors import BenchError
from bench.figures import Comparison, Quantity
from bench.ground import Ground, Grounds
from bench.plan import Plan

RATE = Quantity("noop", "jobs/s")
JOBS = 15_000
IS_LIVE = "state NOT IN ('completed', 'failed', 'cancelled')"
SECONDS_BETWEEN = {
    "sqlite": "(julianday(max(finished_at)) - julianday(min(started_at))) * 86400",
    "postgresql": "EXTRACT(EPOCH FROM max(finished_at) - min(started_at))",
}


def noop(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """No-op jobs per second: enqueued first, then drained."""
    own = {
        database: partial(drained_rate, grounds, plan.belfry, database, plan.scaled(JOBS))
        for database in plan.databases
    }
    peers = {queue.name: partial(_queue, grounds, queue, plan.scaled(queue.count)) for queue in plan.queues}
    yield from plan.compare_without_database(own, peers)


def drained_rate(
    grounds: Grounds, belfry: Desk, database: str, count: int, step: str = "enqueue_noops", quantity: Quantity = RATE
) -> Mapping[Quantity, float]:
    """Between the first start and the last end that the records tell."""
    with grounds.fresh(database) as ground:
        belfry.step(ground, "prepare", 1)
        belfry.step(ground, step, count)
        return {quantity: drain(ground, belfry, database, count)}


def drain(ground: Ground, belfry: Desk, database: str, count: int) -> float:
    """Run the enqueued jobs; return how many per second."""
    belfry.start_workers(ground)
    ground.wait(lambda: _is_drained(ground), every=0.25)
    completed, seconds = ground.query(
        f"SELECT count(*), {SECONDS_BETWEEN[database]} FROM job_records WHERE state = 'completed'"
    )
    if completed != count:
        raise BenchError(f"{count - completed} of {count} jobs that do nothing did not complete")
    return count / float(seconds)


def _is_drained(ground: Ground) -> bool:
    return ground.query(f"SELECT 1 FROM job_records WHERE {IS_LIVE} LIMIT 1") is None


def _queue(grounds: Grounds, queue: Queue, count: int) -> Mapping[Quantity, float]:
    """Between the first and the last change of what the broker has left: these keep no history."""
    with grounds.fresh("sqlite") as ground, ground.valkey.client() as broker:
        queue.run(ground, "-c", f"import tasks; tasks.send({count})")
        if queue.left(broker) != count:
            raise BenchError(f"{queue.name} has {queue.left(broker)} of {count} tasks in its queue")
        queue.start_workers(ground)
        ground.wait(lambda: queue.left(broker) < count, every=0.005)
        begun = time.monotonic()
        ground.wait(lambda: queue.left(broker) == 0, every=0.01)
        return {RATE: count / (time.monotonic() - begun)}
