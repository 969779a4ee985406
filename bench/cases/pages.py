"""The pages of operations and mail beside a million jobs, what open dashboards cost, and how fast old jobs go."""

from __future__ import annotations

import contextlib
import heapq
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode

from bench import paths
from bench.cases.memory import with_descendants
from bench.errors import BenchError
from bench.figures import Comparison, Quantity, percentile, rounded
from bench.ground import Grounds
from bench.history import JOBS, SCHOOL_OF_BATCHES
from bench.plan import Plan, say
from tests.servers import free_port

REQUESTS = 40
DASHBOARDS, DASHBOARD_SECONDS = 50, 40
# The overview is polled every 20 seconds, the bell on it every 30. Two of five are of staff, who see one school each.
POLLED = (("/operations/live", 20), ("/inbox/bell", 30))
WEEK = "/operations?span=7d"
PRUNED = 100_000
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
# The processes of PostgreSQL that serve others than this statement.
BACKENDS = "SELECT array_agg(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@dataclass
class Viewer:
    """A user at a browser, with a token for the API.

    Args:
        name: of the user.
        token: a personal one.
        port: where the web server listens.
        cookie: of the session.
    """

    name: str
    token: str
    port: int
    cookie: str = ""

    def log_in(self, password: str) -> None:
        """Log in by the form. Raises BenchError."""
        status, headers, content = self.get("/login")
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', content.decode())
        if status != 200 or token is None:
            raise BenchError(f"/login was answered with {status}")
        self._keep(headers)
        body = urlencode({"csrf_token": token[1], "login": self.name, "password": password})
        connection = self._connection()
        connection.request("POST", "/login", body, {**FORM, "Cookie": self.cookie})
        answer = connection.getresponse()
        if answer.status != 302:
            raise BenchError(f"the login of {self.name} was answered with {answer.status}")
        self._keep(answer)
        connection.close()

    def get(self, path: str, tag: str | None = None) -> tuple[int, HTTPResponse, bytes]:
        """Request a path over a connection of its own; return the status, the headers and the content."""
        connection = self._connection()
        own = {"Authorization": f"Bearer {self.token}"} if path.startswith("/api/") else {"Cookie": self.cookie}
        connection.request("GET", path, headers=own | ({"If-None-Match": tag} if tag else {}))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer, content

    def _connection(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=60)

    def _keep(self, answer: HTTPResponse) -> None:
        cookies = SimpleCookie(self.cookie)
        for line in answer.headers.get_all("Set-Cookie", []):
            cookies.load(line)
        self.cookie = "; ".join(f"{name}={morsel.value}" for name, morsel in cookies.items())


def pages(grounds: Grounds, plan: Plan) -> Iterator[Comparison]:
    """The times of all pages, the processor time of dashboards, and the rate of pruning, in one round."""
    for database in plan.databases:
        yield from replace(plan, rounds=1).compare(
            database, {plan.belfry.name: partial(_measure, grounds, plan, database)}
        )


def _measure(grounds: Grounds, plan: Plan, database: str) -> Mapping[Quantity, float]:
    desk, jobs = plan.belfry, plan.scaled(JOBS)
    with grounds.fresh(database) as ground:
        say(f"Loading {jobs:,} jobs …")
        people = desk.step(ground, "fill", jobs)
        web = desk.start_web(ground, port := free_port())
        ground.wait_until_listening(port)
        viewers = {name: Viewer(name, token, port) for name, token in people["tokens"].items()}
        for viewer in viewers.values():
            viewer.log_in(people["password"])
        admin, staff = viewers["admin"], viewers[f"staff{SCHOOL_OF_BATCHES}"]
        figures = _times(paths.all_paths(ground), [admin, staff], plan.scaled(REQUESTS))
        backends = ground.query(BACKENDS)[0] if database == "postgresql" else []
        desk.start(ground, ("python", "scheduler.py"))  # what it samples and counts changes the pages
        others = [viewer for viewer in viewers.values() if viewer is not admin]
        open_ = [others[n % len(others)] if n % 5 < 2 else admin for n in range(DASHBOARDS)]
        used = _dashboards(open_, plan.scaled(DASHBOARD_SECONDS), [*with_descendants(web), *backends])
        ground.stop_processes()
        pruned = desk.step(ground, "prune", plan.scaled(PRUNED))
        return {
            **figures,
            Quantity("pages_dashboards", "% of a core"): used,
            Quantity("pages_prune", "rows/s"): pruned["completed"] / pruned["seconds"],
            Quantity("pages_prune_enqueue_longest", "ms"): pruned["longest_seconds"] * 1_000,
        }


def _times(asked: Sequence[str], viewers: Sequence[Viewer], requests: int) -> Mapping[Quantity, float]:
    """Request everything in turns, and report the times of each path."""
    taken: dict[tuple[str, str], list[float]] = {}
    for viewer in viewers:
        for path in asked:
            status, _, content = viewer.get(path)
            if status == 200:
                taken[viewer.name, path] = []
            elif viewer is viewers[0] or status not in (403, 404):
                raise BenchError(f"{path} was answered with {status}: {content[:200].decode()}")
    by_name = {viewer.name: viewer for viewer in viewers}
    for _ in range(requests):
        for (name, path), seconds in taken.items():
            begun = time.perf_counter()
            by_name[name].get(path)
            seconds.append(time.perf_counter() - begun)
    slowest = sorted(taken, key=lambda key: -percentile(taken[key], 95))
    for name, path in slowest:
        p50, p95 = (_ms(taken[name, path], percent) for percent in (50, 95))
        say(f"{name} {path}: p50 {rounded(p50)} ms, p95 {rounded(p95)} ms")
    say(f"the slowest page: {slowest[0][1]} of {slowest[0][0]}")
    admin = viewers[0].name
    named = {"slowest": taken[slowest[0]], "metrics": taken[admin, "/metrics"], "week": taken[admin, WEEK]}
    figures = {
        Quantity(f"pages_{name}_p{percent}", "ms"): _ms(seconds, percent)
        for name, seconds in named.items()
        for percent in (50, 95)
    }
    return {Quantity("pages_p50", "ms"): _ms([each for all_ in taken.values() for each in all_], 50)} | figures


def _ms(seconds: Sequence[float], percent: float) -> float:
    return percentile(seconds, percent) * 1_000


def _dashboards(viewers: Sequence[Viewer], seconds: int, pids: Sequence[int]) -> float:
    """Poll as pages that are open, for a time; return the percentage of a core that processes used."""
    # They have been open for a while.
    tags = {
        (number, path): viewer.get(path)[1].headers.get("ETag") or ""
        for number, viewer in enumerate(viewers)
        for path, _ in POLLED
    }
    # Not all at the same time.
    polls = [
        (every * number / len(viewers), number, path, every)
        for number, _ in enumerate(viewers)
        for path, every in POLLED
    ]
    heapq.heapify(polls)
    statuses: dict[int, int] = {}
    used, begun = _processor_seconds(pids), time.monotonic()
    while polls[0][0] < seconds:
        due, number, path, every = heapq.heappop(polls)
        time.sleep(max(0.0, begun + due - time.monotonic()))
        status, answer, _ = viewers[number].get(path, tags.get((number, path)))
        if status not in (200, 304):
            raise BenchError(f"{path} was answered with {status}")
        statuses[status] = statuses.get(status, 0) + 1
        tags[number, path] = answer.headers.get("ETag") or ""
        heapq.heappush(polls, (due + every, number, path, every))
    now = _processor_seconds(pids)
    share = sum(now[pid] - before for pid, before in used.items() if pid in now) / (time.monotonic() - begun)
    say(f"{len(viewers)} dashboards: {statuses.get(200, 0)} polls were answered, {statuses.get(304, 0)} with 304")
    return share * 100


def _processor_seconds(pids: Sequence[int]) -> dict[int, float]:
    """The processor time of those of the processes that have not ended, see proc_pid_stat(5)."""
    found: dict[int, float] = {}
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found
