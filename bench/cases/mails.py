"""Mails to customers whose reservations were confirmed: one job each, two processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from bench.contestants import Desk
from bench.errors import BenchError
from bench.figures import Comparison, Quantity
from bench.ground import Ground, Grounds
from bench.plan import Plan
from bench.rows import CUSTOMERS, load_pending

MAILS = {"belfry": 4_000, "celery": 1_500}
SLOW_MAILS = {"belfry": 2_000, "celery": 300}
Ask = Callable[[Ground, Desk, int], None]


def mails(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """Mails per second to a server that answers at once."""
    return compare_rates(grounds, plan, Quantity("mails", "mails/s"), MAILS, _confirm)


def mails_50ms(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """Mails per second to a server that takes 50 ms for each."""
    return compare_rates(grounds, plan, Quantity("mails_50ms", "mails/s"), SLOW_MAILS, _confirm, 0.05)


def compare_rates(
    grounds: Grounds, plan: Plan, quantity: Quantity, counts: Mapping[str, int], ask: Ask, delay_seconds: float = 0.0
) -> Iterator[Comparison]:
    """Mails per second of each desk, between the first and the last one that the server accepted.

    Args:
        grounds, plan: see there.
        quantity: what is measured.
        counts: how many mails, by the name of the desk.
        ask: enqueues so many mails, before the workers start.
        delay_seconds: how long the server needs for each.
    """
    for database in plan.databases:
        measures = {
            desk.name: partial(
                _rate, grounds, desk, database, quantity, plan.scaled(counts[desk.name]), ask, delay_seconds
            )
            for desk in plan.desks
        }
        yield from plan.compare(database, measures)


def _rate(
    grounds: Grounds, desk: Desk, database: str, quantity: Quantity, count: int, ask: Ask, delay_seconds: float
) -> Mapping[Quantity, float]:
    with grounds.fresh(database, delay_seconds) as ground:
        ask(ground, desk, count)
        desk.start_workers(ground)
        ground.wait(lambda: len(ground.accepted()) >= count)
        accepted = ground.accepted()
        if len(accepted) > count:
            raise BenchError(f"{desk.name} sent {len(accepted)} mails instead of {count}")
        return {quantity: (count - 1) / (max(accepted) - min(accepted))}


def _confirm(ground: Ground, desk: Desk, count: int) -> None:
    desk.step(ground, "prepare", CUSTOMERS)
    load_pending(ground, count)
    desk.step(ground, "confirm")
