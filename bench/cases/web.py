"""Requests over HTTP that change a reservation's status, for which its customer gets a mail."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

from bench.contestants import Desk
from bench.errors import BenchError
from bench.figures import Comparison, Quantity, percentile
from bench.ground import START_SECONDS, Ground, Grounds
from bench.plan import Plan
from bench.rows import CUSTOMERS, load_pending
from tests.servers import free_port

CLIENTS = (1, 8)
REQUESTS = 400
WARM_UP = 50
MAILS = 100
PAUSE_SECONDS = 0.05


class Api:
    """The API of a desk, for a member of staff.

    Args:
        port: where its web server listens.
        authorization: the header that lets in.
    """

    def __init__(self, port: int, authorization: str) -> None:
        self._port = port
        self._headers = {"Authorization": authorization, "Content-Type": "application/json"}
        self._ids = count(1)

    def confirm(self, requests: int, clients: int = 1) -> list[float]:
        """Confirms so many pending reservations, from several clients at once; returns the seconds each took."""
        shares = [requests // clients + (number < requests % clients) for number in range(clients)]
        with ThreadPoolExecutor(clients) as pool:
            return [seconds for taken in pool.map(self._confirm, shares) for seconds in taken]

    def _confirm(self, requests: int) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            return [self._patch(connection, next(self._ids)) for _ in range(requests)]
        finally:
            connection.close()

    def _patch(self, connection: http.client.HTTPConnection, id: int) -> float:
        path, body = f"/api/v1/reservations/{id}", {"status": "confirmed"}
        seconds, status, content = ask(connection, "PATCH", path, body, self._headers)
        if status != 200:
            raise BenchError(f"a PATCH was answered with {status}: {content[:200].decode()}")
        return seconds


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: object, headers: Mapping[str, str]
) -> tuple[float, int, bytes]:
    """One request with a JSON body: the seconds that it took, its status and its content."""
    begun = time.perf_counter()
    connection.request(method, path, json.dumps(body), dict(headers))
    answer = connection.getresponse()
    content = answer.read()
    return time.perf_counter() - begun, answer.status, content


def percentiles(name: str, seconds: Sequence[float]) -> dict[Quantity, float]:
    """The median and the 99th percentile, in ms."""
    return {Quantity(f"{name}_p{percent}", "ms"): percentile(seconds, percent) * 1_000 for percent in (50, 99)}


def patch(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """The time of a PATCH, its job enqueued and no worker running: one client, and eight at once."""
    for database in plan.databases:
        measures = {desk.name: partial(_patch, grounds, desk, database, plan) for desk in plan.desks}
        yield from plan.compare(database, measures)


def request_to_smtp(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """From sending a PATCH to the mail's acceptance by the SMTP server, everything else idle."""
    for database in plan.databases:
        measures = {desk.name: partial(_request_to_smtp, grounds, desk, database, plan) for desk in plan.desks}
        yield from plan.compare(database, measures)


def start_installation(ground: Ground, desk: Desk, reservations: int) -> tuple[Api, list[int]]:
    """Starts all processes of a desk, and has them work a little.

    Args:
        ground: where.
        desk: whose.
        reservations: how many are left to confirm.

    Returns:
        its API, and the ids of the processes.
    """
    api, port = _prepare(ground, desk, WARM_UP + reservations)
    pids = desk.start_all(ground, port)
    ground.wait_until_listening(port)
    api.confirm(WARM_UP, max(CLIENTS))
    ground.wait(lambda: len(ground.accepted()) == WARM_UP, START_SECONDS)
    return api, pids


def _prepare(ground: Ground, desk: Desk, reservations: int) -> tuple[Api, int]:
    port = free_port()
    authorization = desk.step(ground, "prepare", CUSTOMERS)["authorization"]
    load_pending(ground, reservations)
    return Api(port, authorization), port


def _patch(grounds: Grounds, desk: Desk, database: str, plan: Plan) -> Mapping[Quantity, float]:
    requests = plan.scaled(REQUESTS)
    figures: dict[Quantity, float] = {}
    with grounds.fresh(database) as ground:
        api, port = _prepare(ground, desk, WARM_UP + requests * len(CLIENTS))
        desk.start_web(ground, port)
        ground.wait_until_listening(port)
        api.confirm(WARM_UP, max(CLIENTS))
        for clients in CLIENTS:
            name = f"patch_{clients}_client{'s' if clients > 1 else ''}"
            figures |= percentiles(name, api.confirm(requests, clients))
    return figures


def _request_to_smtp(grounds: Grounds, desk: Desk, database: str, plan: Plan) -> Mapping[Quantity, float]:
    mails = plan.scaled(MAILS)
    with grounds.fresh(database) as ground:
        api, _ = start_installation(ground, desk, mails)
        return percentiles("request_to_smtp", [_until_accepted(ground, api) for _ in range(mails)])


def _until_accepted(ground: Ground, api: Api) -> float:
    time.sleep(PAUSE_SECONDS)  # the system is idle again
    before = len(ground.accepted())
    begun = time.time()
    api.confirm(1)
    ground.wait(lambda: len(ground.accepted()) > before, START_SECONDS, every=0.005)
    return ground.accepted()[-1] - begun
