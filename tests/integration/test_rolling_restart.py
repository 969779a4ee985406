"""A deploy under load: every process is replaced while people work: no request fails, and no job is lost."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.reservations import Reservation, ReservationStatus
from flask_belfry.mail import EmailMessage, MailState
from flask_belfry.outbox import (
    FINALIZED,
    JobAttempt,
    JobRecord,
    JobRequest,
    JobState,
    WorkerProcess,
    enqueue,
    enqueue_many,
)
from tests.job_records import count
from tests.processes import children_of
from tests.reservation_factories import bearer, insert_reservations, make_user, tomorrow
from tests.servers import free_port, wait_until

CLIENTS = 2
PAUSE_SECONDS = 0.05
NAPS = ("test.long_nap", "test.heavy_long_nap")
NAP_SECONDS = 1.0


class Client(threading.Thread):
    """Confirms one reservation after another on a kept-alive connection, and records what was answered.

    A server may close an idle connection at any time: as browsers and proxies do, the client repeats a request on a new
    connection when one that it has used before was closed before the first byte of the response.
    """

    def __init__(self, port: int, headers: dict[str, str], ids: Iterator[int], stop: threading.Event) -> None:
        super().__init__()
        self._connection = HTTPConnection("127.0.0.1", port, timeout=90)
        self._headers, self._ids, self._stop_asked = headers, ids, stop
        self.confirmed: list[int] = []
        self.errors: list[object] = []

    def run(self) -> None:
        while not self._stop_asked.wait(PAUSE_SECONDS):
            self._confirm(next(self._ids))
        self._connection.close()

    def _confirm(self, id: int) -> None:
        is_reused = self._connection.sock is not None
        try:
            path, body = f"/api/v1/reservations/{id}", '{"status": "confirmed"}'
            self._connection.request("PATCH", path, body, self._headers)
            answer = self._connection.getresponse()
        except (HTTPException, OSError) as error:
            self._connection.close()
            if is_reused and isinstance(error, ConnectionError):
                self._confirm(id)
            else:
                self.errors.append(error)
            return
        text = answer.read()
        (self.confirmed if answer.status == 200 else self.errors).append(id if answer.status == 200 else text)


@pytest.fixture
def settings(settings, smtp):
    """Without limits of writes: the clients are one user, and as fast as the web process lets them."""
    return settings | smtp.settings | {"BROKER_TIMEOUT_SECONDS": "5", "RATE_LIMITS_ENABLED": "false"}


@contextmanager
def busy_clients(port: int, headers: dict[str, str], ids: Iterator[int]) -> Iterator[list[Client]]:
    """Clients at work for as long as the block."""
    stop = threading.Event()
    clients = [Client(port, headers, ids, stop) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        stop.set()
        for client in clients:
            client.join(90)


def replace(old: subprocess.Popen[bytes], start: Callable[[], subprocess.Popen[bytes]]) -> None:
    """As a process manager does, stop the old process, wait for its end, and start a new one."""
    old.send_signal(signal.SIGTERM)
    assert old.wait(60) == 0
    start()


def reload(web: subprocess.Popen[bytes]) -> None:
    """What a process manager does for a web process: the same master, with workers that run the new code."""
    (before,) = children_of(web.pid)
    web.send_signal(signal.SIGHUP)
    wait_until(lambda: before not in children_of(web.pid) and children_of(web.pid), seconds=60)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_rolling_restart_under_load_loses_nothing_and_shows_no_error(app, session, processes, smtp):
    insert_reservations(make_user(), 5_000, ReservationStatus.PENDING, tomorrow())
    ids = iter(session.scalars(sa.select(Reservation.id)).all())
    headers = bearer(make_user(Role.STAFF)) | {"Content-Type": "application/json"}

    def begin_naps() -> None:
        """Run a job on a light and on the heavy worker, one of which is about to be stopped."""
        ids = [enqueue(name, seconds=NAP_SECONDS) for name in NAPS]
        session.commit()
        begun = JobRecord.id.in_(ids), JobRecord.started_at.is_not(None)
        wait_until(lambda: count(session, JobRecord, *begun) == len(ids), seconds=60)

    port = free_port()
    web = processes.web(port)
    starts = [processes.worker, processes.worker, lambda: processes.worker("--heavy"), processes.scheduler]
    others = [start() for start in starts]
    wait_until(lambda: count(session, WorkerProcess) == len(others), seconds=60)
    with busy_clients(port, headers, ids) as clients:
        for old, start in zip(others, starts, strict=True):
            begin_naps()
            replace(old, start)
        reload(web)
        answered = [len(client.confirmed) for client in clients]
        wait_until(lambda: all(len(c.confirmed) > n + 1 for c, n in zip(clients, answered, strict=True)), seconds=60)
    wait_until(lambda: count(session, JobRecord, JobRecord.state.not_in(FINALIZED)) == 0, seconds=60)

    assert [error for client in clients for error in client.errors] == [], processes.output()
    confirmed = {id for client in clients for id in client.confirmed}
    assert confirmed
    ends = session.execute(sa.select(JobRecord.state, JobRecord.attempt, JobRecord.interruptions).distinct()).all()
    assert [tuple(end) for end in ends] == [(JobState.COMPLETED, 1, 0)], processes.output()
    assert count(session, JobAttempt) == 0
    assert {mail.subject_id for mail in session.scalars(sa.select(EmailMessage))} == set(map(str, confirmed))
    assert count(session, EmailMessage, EmailMessage.state == MailState.SENT) == len(confirmed)
    assert len({mail.message["Message-ID"] for mail in smtp.received}) == len(smtp.received) == len(confirmed)


@pytest.fixture
def stopping(session, processes):
    """Starts a light and a heavy worker, gives them jobs of so many seconds, and stops them in the middle.

    It returns the workers, and the ids of the jobs: three of one chunk, in order, and a heavy one.
    """

    names = ("test.nap_in_chunks", "test.heavy_long_nap")

    def jobs(state: JobState) -> int:
        # Without those that the tickets of the others ask for.
        return count(session, JobRecord, JobRecord.state == state, JobRecord.name.in_(names))

    def stop(seconds: float) -> tuple[list[subprocess.Popen[bytes]], list[str]]:
        workers = [processes.worker(WORKER_THREADS="1"), processes.worker("--heavy")]
        for name in names:
            enqueue(name, seconds=0)
        session.commit()
        # One thread, which has learned that such jobs are short, takes the next ones together.
        wait_until(lambda: jobs(JobState.COMPLETED) == 2, seconds=60)
        ids = enqueue_many("test.nap_in_chunks", [JobRequest({"seconds": seconds})] * 3)
        ids += [enqueue("test.heavy_long_nap", seconds=seconds)]
        session.commit()
        wait_until(lambda: jobs(JobState.RUNNING) == len(ids), seconds=60)
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        return workers, ids

    return stop


def ends(session, ids: Sequence[str]) -> list[tuple[JobState, int, int, int]]:
    """Of each job its state, and how many attempts it used, interruptions it had and claims there were."""
    columns = JobRecord.state, JobRecord.attempt, JobRecord.interruptions, JobRecord.claims
    found = {row.id: tuple(row[1:]) for row in session.execute(sa.select(JobRecord.id, *columns))}
    return [found[id] for id in ids]


COMPLETED = (JobState.COMPLETED, 1, 0, 1)
GIVEN_BACK = (JobState.PENDING, 0, 0, 1)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_first_signal_lets_what_has_begun_finish_and_gives_the_rest_back(session, processes, stopping):
    workers, ids = stopping(2)
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert ends(session, ids) == [COMPLETED, GIVEN_BACK, GIVEN_BACK, COMPLETED], processes.output()
    assert count(session, JobAttempt) == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_second_signal_gives_everything_back_at_once(session, processes, stopping):
    workers, ids = stopping(50)
    time.sleep(1.2)  # RQ ignores a second signal within a second
    assert [worker.poll() for worker in workers] == [None, None]
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    assert [worker.wait(20) for worker in workers] == [0, 0]
    assert ends(session, ids) == [GIVEN_BACK] * 4, processes.output()
    assert count(session, JobAttempt) == 0
