"""A command that an operator types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from bench.contestants import Desk
from bench.figures import Comparison, Quantity
from bench.ground import Grounds
from bench.plan import Plan

TIMES = 5


def cli(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """The time from typing a command to its end: `jobs stats`, beside `manage.py check`, which asks no database."""
    for database in plan.databases:
        measures = {desk.name: partial(_command, grounds, desk, database) for desk in plan.desks}
        yield from plan.compare(database, measures)


def _command(grounds: Grounds, desk: Desk, database: str) -> Mapping[Quantity, float]:
    with grounds.fresh(database) as ground:
        desk.step(ground, "prepare", 1)
        desk.run_command(ground)  # writes the bytecode that is missing
        taken = sorted(desk.run_command(ground) for _ in range(TIMES))
        elapsed, processor = taken[TIMES // 2]
        return {Quantity("cli", "s"): elapsed, Quantity("cli_processor", "s"): processor}
