"""The sweep: 10,000 overdue reservations among a million are completed, and whatever follows from that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count

from bench.contestants import Desk
from bench.errors import BenchError
from bench.figures import Comparison, Quantity
from bench.ground import Ground, Grounds
from bench.plan import Plan, say
from bench.rows import CUSTOMERS, load_history, make_overdue

RATE = Quantity("sweep", "rows/s")
GROWTH = Quantity("sweep_memory", "MB")
ROWS = 1_000_000
OVERDUE = 10_000


def sweep(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """Rows completed per second, and by how much the process grew meanwhile."""
    for database in plan.databases:
        with contextlib.ExitStack() as cleanup:
            measures = {}
            for desk in plan.desks:
                ground = cleanup.enter_context(grounds.fresh(database))
                overdue = plan.scaled(OVERDUE)
                _load(ground, desk, plan.scaled(ROWS), overdue * plan.rounds)
                measures[desk.name] = partial(_sweep, ground, desk, overdue, count())
            yield from plan.compare(database, measures)


def _load(ground: Ground, desk: Desk, rows: int, confirmed: int) -> None:
    say(f"Loading {rows:,} reservations for {desk.name} …")
    desk.step(ground, "prepare", CUSTOMERS)
    load_history(ground, max(rows, confirmed), confirmed)


def _sweep(ground: Ground, desk: Desk, overdue: int, rounds: Iterator[int]) -> Mapping[Quantity, float]:
    before = next(rounds) * overdue
    make_overdue(ground, before + 1, before + overdue)
    swept = desk.step(ground, "sweep")
    if swept["completed"] != overdue:
        raise BenchError(f"{desk.name} completed {swept['completed']} of {overdue} overdue reservations")
    return {RATE: overdue / swept["seconds"], GROWTH: swept["grown_bytes"] / 1e6}
