"""The list of jobs that an operator reads, beside Flower's: as many finished jobs, as many rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple
from urllib.parse import urlencode

from bench.cases.memory import proportional_bytes, with_descendants
from bench.cases.noop import drain
from bench.cases.pages import Viewer
from bench.contestants import FLOWER
from bench.errors import BenchError
from bench.figures import Comparison, Quantity, percentile
from bench.ground import Grounds
from bench.plan import Plan
from tests.servers import free_port

JOBS = 10_000
REQUESTS, WARM_UP = 50, 5
ROWS = 25
LIST, API = Quantity("job_list_p50", "ms"), Quantity("job_list_api_p50", "ms")
SEARCH = Quantity("job_list_search_p50", "ms")
MEMORY = Quantity("job_list_memory", "MB")
FLOWER_COMMAND = ("celery", "-A", "tasks", "flower", "--address=127.0.0.1", "--logging=error")
# What the script of Flower's page sends: its columns, and the one that orders them.
COLUMNS = ("name", "uuid", "state", "received", "runtime", "worker")
DATATABLE = {
    "draw": 1,
    "start": 0,
    "length": ROWS,
    "order[0][column]": COLUMNS.index("received"),
    "order[0][dir]": "desc",
    **{f"columns[{number}][data]": name for number, name in enumerate(COLUMNS)},
}


class Request(NamedTuple):
    """What is requested.

    Args:
        path: with its query string.
        rows: counts the jobs of a response.
    """

    path: str
    rows: Callable[[bytes], int]


def job_list(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """The times of the newest jobs and of a search by arguments, and the memory of the web server."""
    count, requests = plan.scaled(JOBS), plan.scaled(REQUESTS)
    own = {database: partial(_belfry, grounds, plan, database, count, requests) for database in plan.databases}
    peers = {} if plan.alone else {FLOWER.name: partial(_flower, grounds, count, requests)}
    yield from plan.compare_without_database(own, peers)


def _belfry(grounds: Grounds, plan: Plan, database: str, count: int, requests: int) -> Mapping[Quantity, float]:
    desk = plan.belfry
    with grounds.fresh(database) as ground:
        desk.step(ground, "prepare", 1)
        people = desk.step(ground, "employ_admin")
        desk.step(ground, "enqueue_noops", count)
        drain(ground, desk, database, count)
        web = desk.start_web(ground, port := free_port())
        ground.wait_until_listening(port)
        ((name, token),) = people["tokens"].items()
        viewer = Viewer(name, token, port)
        viewer.log_in(people["password"])
        asked = {
            LIST: Request("/jobs/", _rows_of_page),
            SEARCH: Request(f"/jobs/?{urlencode({'q': f'args.n:{count // 2}'})}", _rows_of_page),
            API: Request(f"/api/v1/jobs?limit={ROWS}", lambda content: len(json.loads(content)["items"])),
        }
        return _measure(viewer, asked, count, requests) | {MEMORY: _megabytes(web)}


def _rows_of_page(content: bytes) -> int:
    return content.count(b'<tr id="job-')


def _flower(grounds: Grounds, count: int, requests: int) -> Mapping[Quantity, float]:
    with grounds.fresh("sqlite") as ground, ground.valkey.client() as broker:
        flower = FLOWER.start(ground, (*FLOWER_COMMAND, f"--port={(port := free_port())}"))
        ground.wait_until_listening(port)
        ground.wait(lambda: broker.pubsub_numpat() > 0)  # events that no process receives are lost
        FLOWER.run(ground, "-c", f"import tasks; tasks.send({count})")
        FLOWER.start_workers(ground)
        viewer = Viewer(FLOWER.name, "", port)

        def is_complete() -> bool:
            _, _, content = viewer.get(_datatable("state:SUCCESS"))
            return json.loads(content)["recordsFiltered"] == count

        ground.wait(is_complete, every=0.5)
        asked = {
            LIST: Request(_datatable(""), _rows_of_datatable),
            SEARCH: Request(_datatable(f'args:"({count // 2},)"'), _rows_of_datatable),
            API: Request(f"/api/tasks?limit={ROWS}&sort_by=-received", lambda content: len(json.loads(content))),
        }
        return _measure(viewer, asked, count, requests) | {MEMORY: _megabytes(flower)}


def _datatable(search: str) -> str:
    return f"/tasks/datatable?{urlencode({**DATATABLE, 'search[value]': search})}"


def _rows_of_datatable(content: bytes) -> int:
    return len(json.loads(content)["data"])


def _measure(viewer: Viewer, asked: Mapping[Quantity, Request], count: int, requests: int) -> Mapping[Quantity, float]:
    """The medians; all are requested in turns."""
    taken: dict[Quantity, list[float]] = {quantity: [] for quantity in asked}
    for _ in range(WARM_UP + requests):
        for quantity, (path, rows) in asked.items():
            expected = 1 if quantity == SEARCH else min(ROWS, count)
            begun = time.perf_counter()
            status, _, content = viewer.get(path)
            taken[quantity].append(time.perf_counter() - begun)
            if status != 200 or rows(content) != expected:
                raise BenchError(f"{path} was answered with {status}, not {expected} rows: {content[:200].decode()}")
    return {quantity: percentile(seconds[WARM_UP:], 50) * 1_000 for quantity, seconds in taken.items()}


def _megabytes(pids: Sequence[int]) -> float:
    return sum(map(proportional_bytes, with_descendants(pids))) / 1e6
