"""Steps in real workers: killed at each page, stopped between two of them, and with a time limit for each."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import sqlalchemy as sa

from flask_belfry.outbox import JobState
from flask_belfry.outbox.models import AttemptOutcome
from flask_belfry.workers.forking import ForkingWorker
from tests.domain import Ticket
from tests.job_records import asked, attempts_of, count, read, state_is
from tests.servers import wait_until

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
KINDS = pytest.mark.parametrize(("name", "options"), [("test.step", ()), ("test.heavy_step", ("--heavy",))])


def numbers(session) -> list[int]:
    """Return for which numbers there is a row, in their order."""
    titles = session.scalars(sa.select(Ticket.title).order_by(Ticket.id)).all()
    session.rollback()
    return [int(title.removeprefix("did ")) for title in titles]


def process_at(folder: Path, stop: str) -> int:
    """Wait until a process is at this stop, and return its id."""
    path = folder / stop
    wait_until(path.exists, seconds=40)
    return int(path.read_text())


@KINDS
def test_the_effect_of_each_page_happens_once_however_often_the_process_is_killed(
    session, processes, tmp_path, name, options
):
    """Killed while each page is written, and between each commit and the next page: twice in a row at most."""
    stops = [f"{what} {first}" for first in (0, 2, 4) for what in ("reads", "writes")]
    processes.worker(*options)
    id = asked(session, name, count=6, size=2, folder=str(tmp_path), stops=stops)
    for stop in stops:
        os.kill(process_at(tmp_path, stop), signal.SIGKILL)
    wait_until(state_is(session, id, JobState.COMPLETED, JobState.FAILED), seconds=40)
    record = read(session, id)
    assert record.state is JobState.COMPLETED, processes.output()
    assert numbers(session) == [0, 1, 2, 3, 4, 5]
    assert (record.attempt, record.claims, record.progress_done) == (1, 7, 6)
    assert [attempt.outcome for attempt in attempts_of(session, id)] == [AttemptOutcome.INTERRUPTED] * 6


@KINDS
def test_sigterm_stops_a_job_between_two_pages_and_another_worker_continues(
    session, processes, tmp_path, name, options
):
    first = processes.worker(*options)
    id = asked(session, name, count=6, size=2, folder=str(tmp_path), stops=["writes 2"])
    process_at(tmp_path, "writes 2")
    first.send_signal(signal.SIGTERM)
    first.wait(20)
    record = read(session, id)
    assert (record.state, record.attempt) == (JobState.PENDING, 0), processes.output()
    assert numbers(session) == [0, 1, 2, 3]
    assert attempts_of(session, id) == []
    processes.worker(*options)
    wait_until(state_is(session, id, JobState.COMPLETED), seconds=40)
    assert numbers(session) == [0, 1, 2, 3, 4, 5]
    assert read(session, id).attempt == 1


@pytest.mark.parametrize(("name", "options"), [("test.nap_in_steps", ()), ("test.heavy_nap_in_steps", ("--heavy",))])
@on_sqlite
def test_the_time_limit_counts_for_each_page(session, processes, name, options):
    short = asked(session, name, naps=[0.5] * 5)  # longer than its 2 s in all
    processes.worker(*options)
    wait_until(state_is(session, short, JobState.COMPLETED, JobState.FAILED), seconds=40)
    long = asked(session, name, naps=[0.01, 30])
    wait_until(state_is(session, long, JobState.COMPLETED, JobState.FAILED), seconds=40)
    assert read(session, short).state is JobState.COMPLETED, processes.output()
    record = read(session, long)
    assert (record.state, record.error_message) == (JobState.FAILED, "took longer than its 2 s")
    assert record.cursor["steps"]["done"] == 1
    assert count(session, Ticket) == 6
    # A heartbeat waited for the writes of this job on SQLite; its time limit did not.
    assert "heartbeat.late" not in processes.output()


@on_sqlite
def test_a_heavy_worker_gives_each_page_its_time_before_it_kills_the_process(app, session, valkey, monkeypatch):
    monkeypatch.setattr("flask_belfry.workers.forking.LAST_RESORT_SECONDS", 0.5)
    id = asked(session, "test.heavy_nap_in_steps", naps=[0.5] * 6)
    worker = ForkingWorker(["heavy"], connection=valkey.client())
    monkeypatch.setattr(worker, "_install_signal_handlers", lambda: None)
    assert worker.work(max_jobs=1)
    assert read(session, id).state is JobState.COMPLETED
    assert attempts_of(session, id) == []
