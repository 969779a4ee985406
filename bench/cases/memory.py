"""What a complete installation holds in memory while it has nothing to do."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from bench.cases.web import start_installation
from bench.contestants import Desk
from bench.figures import Comparison, Quantity
from bench.ground import Grounds
from bench.plan import Plan

HELD = Quantity("memory", "MB")
REST_SECONDS = 3.0


def memory(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """Proportional set size of all processes, after some requests and mails. Neither broker nor database count."""
    for database in plan.databases:
        measures = {desk.name: partial(_held, grounds, desk, database) for desk in plan.desks}
        yield from plan.compare(database, measures)


def _held(grounds: Grounds, desk: Desk, database: str) -> Mapping[Quantity, float]:
    with grounds.fresh(database) as ground:
        _, pids = start_installation(ground, desk, 0)
        time.sleep(REST_SECONDS)  # whatever starts late has started
        return {HELD: sum(proportional_bytes(pid) for pid in with_descendants(pids)) / 1e6}


def with_descendants(pids: Iterable[int]) -> list[int]:
    """Processes, their children, and so on."""
    found: list[int] = []
    for pid in pids:
        children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
        found += [pid, *with_descendants(map(int, children.split()))]
    return found


def proportional_bytes(pid: int) -> int:
    """A process's memory, in which a page shared by n processes counts as one nth (PSS, see proc_pid_smaps(5))."""
    found = re.search(r"^Pss: +(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None, "needs Linux 4.14 or newer"
    return int(found[1]) * 1024
