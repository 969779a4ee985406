"""Redis restarted, wiped, frozen, read-only and full, under all processes: they wait and continue, as do jobs."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_belfry.db import db
from flask_belfry.outbox import JobAttempt, JobRecord, JobState, enqueue
from tests.conftest import make_app
from tests.domain import Ticket
from tests.processes import Processes, answers_at, children_of
from tests.servers import LossyProxy, PostgresServer, ValkeyServer, free_port, short_folder, wait_until

pytestmark = pytest.mark.xdist_group("redis-outages")


POOL, HEAVY, SCHEDULER, WEB = range(4)  # places among the stack's roots


@dataclass
class Stack:
    """Every kind of process over one database and one Valkey."""

    valkey: ValkeyServer
    proxy: LossyProxy  # between Valkey and the workers
    processes: Processes
    roots: list[subprocess.Popen[bytes]]
    url: str

    def family(self) -> set[int]:
        """The ids of all processes, work horses aside."""
        for root in self.roots:
            assert root.poll() is None, self.processes.output()
        return {pid for parent in (POOL, WEB) for pid in children_of(self.roots[parent].pid)} | {
            root.pid for root in self.roots
        }

    def get(self, path: str) -> tuple[int, str]:
        """What the web process answers."""
        return self._answer(urllib.request.Request(self.url + path))

    def post(self, path: str) -> tuple[int, str]:
        """The same for a form."""
        return self._answer(urllib.request.Request(self.url + path, data=b""))

    def _answer(self, request: urllib.request.Request) -> tuple[int, str]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def times_met(self, sign: str) -> list[int]:
        """How often the workers have logged `sign`, and the scheduler that it waits."""
        signs = {POOL: sign, HEAVY: sign, SCHEDULER: "scheduler.waiting"}
        return [self.processes.output(self.roots[place]).count(text) for place, text in signs.items()]


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A Valkey of this module's own, not started yet."""
    with short_folder() as folder:
        server = ValkeyServer(folder)
        yield server
        server.kill()


@pytest.fixture(scope="module")
def proxy(server: ValkeyServer) -> Iterator[LossyProxy]:
    with short_folder() as folder, LossyProxy(folder / "proxy.sock", server.socket) as proxy:
        yield proxy
        proxy.shutdown()


@pytest.fixture(scope="module")
def database(postgres: PostgresServer, postgres_template: str) -> Iterator[str]:
    """A database that does not exist yet: `away` is the prefix of its name."""
    name = postgres.create(postgres_template)
    postgres.rename(name, f"away_{name}")
    yield name
    postgres.drop(name)


@pytest.fixture(scope="module")
def environ(server: ValkeyServer, database: str, postgres: PostgresServer) -> dict[str, Any]:
    return {
        "APP_ENV": "testing",
        "SECRET_KEY": "a-secret-key-that-is-only-good-for-tests",
        "DATABASE_URL": postgres.url(database),
        "REDIS_URL": server.url,
        "ADMIN_EMAIL": "admin@example.org",
        "BROKER_RETRY_SECONDS": "1",
        "RELAY_SECONDS": "1",
        "HEARTBEAT_SECONDS": "1",
    }


@pytest.fixture(scope="module")
def stack(
    environ: dict[str, Any],
    server: ValkeyServer,
    proxy: LossyProxy,
    database: str,
    postgres: PostgresServer,
    tmp_path_factory,
) -> Iterator[Stack]:
    """All processes, started while neither Redis nor the database is there; both come when all have seen it."""
    processes = Processes(environ, tmp_path_factory.mktemp("processes"))
    roots = [
        processes.worker("--processes", "2", REDIS_URL=proxy.url),
        processes.worker("--heavy", REDIS_URL=proxy.url),
        processes.scheduler(),
    ]
    leaving = [processes.worker(), processes.worker("--heavy")]
    port = free_port()
    web = ("gunicorn", "tests.root:app", "--bind", f"127.0.0.1:{port}", "--no-control-socket", "--threads", "4")
    roots.append(processes.start(*web))
    stack = Stack(server, proxy, processes, roots, f"http://127.0.0.1:{port}")
    try:
        waiting = (*leaving, roots[POOL], roots[HEAVY], roots[SCHEDULER])
        wait_until(lambda: all(".waiting" in processes.output(process) for process in waiting), seconds=60)
        wait_until(lambda: answers_at(port), seconds=60)
        for process in leaving:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(20) for process in leaving] == [0, 0], processes.output()
        assert stack.get("/readyz")[0] == 503
        postgres.rename(f"away_{database}", database)
        server.start()
        yield stack
    finally:
        processes.kill_all()


@pytest.fixture
def app(stack: Stack, environ: dict[str, Any], tmp_path) -> Iterator[Flask]:
    app = make_app(environ, tmp_path)
    with app.app_context():
        yield app
        db.session.remove()
        db.engine.dispose()


def restart(valkey: ValkeyServer) -> Callable[[], None]:
    valkey.stop()
    return valkey.start


def wipe(valkey: ValkeyServer) -> Callable[[], None]:
    valkey.kill()
    valkey.forget()
    return valkey.start


def freeze(valkey: ValkeyServer) -> Callable[[], None]:
    valkey.freeze()
    return valkey.thaw


def make_read_only(valkey: ValkeyServer) -> Callable[[], None]:
    valkey.client().execute_command("REPLICAOF", "127.0.0.1", "1")
    return lambda: valkey.client().execute_command("REPLICAOF", "NO", "ONE")


def fill(valkey: ValkeyServer) -> Callable[[], None]:
    valkey.client().config_set("maxmemory", 1)
    return lambda: valkey.client().config_set("maxmemory", 0)


@pytest.fixture
def finish(app, session, tmp_path) -> Callable[[], None]:
    """Run a light and a heavy job until the returned function is called."""
    told = tmp_path / "told"
    ids = [enqueue("test.wait", file=str(told)), enqueue("test.heavy_wait", file=str(told))]
    session.commit()
    wait_until(lambda: states(session, ids) == {JobState.RUNNING}, seconds=60)
    return told.touch


# A full Redis lets workers pop, and a silent one lets them wait for long: of both they hear elsewhere first.
OUTAGES = {
    restart: "worker.waiting",
    wipe: "worker.waiting",
    freeze: "rq.not_updated",
    make_read_only: "worker.waiting",
    fill: "rq.not_updated",
}


@pytest.mark.parametrize(("outage", "sign"), OUTAGES.items())
def test_no_process_ends_and_every_job_is_done_once(session, stack, finish, outage, sign):
    before = stack.family()
    for delay in (1, 2):
        enqueue("test.greet", ticket_id=0, delay=delay)
    enqueue("test.heavy_wait", file="/")
    session.commit()

    end_outage = outage(stack.valkey)
    assert [stack.post("/tickets")[0] for _ in range(3)] == [200] * 3
    assert stack.get("/healthz")[0] == 200
    status, text = stack.get("/readyz")
    assert (status, '"broker":"unavailable"' in text) == (200, True), text
    finish()
    wait_until(lambda: JobState.RUNNING not in states(session), seconds=30)
    met = stack.times_met(sign)
    wait_until(lambda: all(map(operator.gt, stack.times_met(sign), met)), seconds=30)
    end_outage()

    wait_until(lambda: states(session) == {JobState.COMPLETED}, seconds=60)
    assert stack.family() == before, stack.processes.output()
    assert_each_was_done_once(session)


def test_an_id_whose_answer_was_lost_between_pop_and_claim_comes_again(app, session, stack):
    before = stack.family()
    lost: list[int] = []
    ask_and_lose(session, stack, lost.append)
    wait_until(lambda: len(lost) == 2, seconds=30)
    wait_until(lambda: states(session) == {JobState.COMPLETED}, seconds=30)
    assert stack.family() == before, stack.processes.output()
    assert_each_was_done_once(session)


def test_an_id_whose_worker_is_killed_between_pop_and_claim_comes_to_another(app, session, stack):
    ask_and_lose(session, stack, lambda pid: os.kill(pid, signal.SIGKILL))
    wait_until(lambda: states(session) == {JobState.COMPLETED}, seconds=60)
    assert_each_was_done_once(session)


def test_sigterm_while_redis_is_unavailable_lets_running_jobs_finish(session, stack, finish):
    stack.valkey.stop()
    (heavy,) = children_of(stack.roots[HEAVY].pid)
    for pid in (*(root.pid for root in stack.roots), heavy, *children_of(heavy)):  # as a process manager does
        os.kill(pid, signal.SIGTERM)
    finish()
    assert [root.wait(30) for root in stack.roots] == [0] * len(stack.roots), stack.processes.output()
    assert states(session) == {JobState.COMPLETED}
    assert_each_was_done_once(session)


def ask_and_lose(session, stack: Stack, at_loss: Callable[[int], None]) -> None:
    ids = [enqueue("test.wait", file="/"), enqueue("test.heavy_wait", file="/")]
    stack.proxy.losses = {id.encode(): at_loss for id in ids}
    session.commit()


def states(session, ids: list[str] | None = None) -> set[JobState]:
    session.rollback()
    query = sa.select(JobRecord.state).distinct()
    return set(session.scalars(query.where(JobRecord.id.in_(ids)) if ids else query))


def assert_each_was_done_once(session) -> None:
    assert set(session.scalars(sa.select(JobRecord.claims))) == {1}
    assert session.scalars(sa.select(JobAttempt)).all() == []
    waited = session.scalar(sa.select(sa.func.count()).where(Ticket.title == "waited"))
    assert waited == session.scalar(sa.select(sa.func.count()).where(JobRecord.name.like("test.%wait")))
