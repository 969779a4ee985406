"""Mails to customers whose reservations were confirmed: one job each, two processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from bench.contestants import Desk
from bench.errors import BenchError
from bench.figures import Comparison, Quantity
from bench.ground import Grounds
from bench.plan import Plan
from bench.rows import CUSTOMERS, load_pending

MAILS = {"belfry": 4_000, "celery": 1_500}
SLOW_MAILS = {"belfry": 2_000, "celery": 300}


def mails(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """Mails per second to a server that answers at once."""
    return _compare(grounds, plan, Quantity("mails", "mails/s"), MAILS, 0.0)


def mails_50ms(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """Mails per second to a server that takes 50 ms for each."""
    return _compare(grounds, plan, Quantity("mails_50ms", "mails/s"), SLOW_MAILS, 0.05)


def _compare(
    grounds: Grounds, plan: Plan, quantity: Quantity, counts: Mapping[str, int], delay_seconds: float
) -> Iterator[Comparison]:
    for database in plan.databases:
        measures = {
            desk.name: partial(_drain, grounds, desk, database, quantity, plan.scaled(counts[desk.name]), delay_seconds)
            for desk in plan.desks
        }
        yield from plan.compare(database, measures)


def _drain(
    grounds: Grounds, desk: Desk, database: str, quantity: Quantity, count: int, delay_seconds: float
) -> Mapping[Quantity, float]:
    """Between the first and the last mail that the server accepted."""
    with grounds.fresh(database, delay_seconds) as ground:
        desk.step(ground, "prepare", CUSTOMERS)
        load_pending(ground, count)
        desk.step(ground, "confirm")
        desk.start_workers(ground)
        ground.wait(lambda: len(ground.accepted()) >= count)
        accepted = ground.accepted()
        if len(accepted) > count:
            raise BenchError(f"{desk.name} sent {len(accepted)} mails instead of {count}")
        return {quantity: (count - 1) / (max(accepted) - min(accepted))}
