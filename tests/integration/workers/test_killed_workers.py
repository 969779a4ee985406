"""Workers, pools and whole hosts that crash, and workers that only seem to: every job runs again and completes once."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.mail import EmailMessage, MailRequest, send_mails
from flask_belfry.outbox import JobRecord, JobState, WorkerProcess, enqueue
from flask_belfry.outbox.models import AttemptOutcome
from tests.domain import Ticket
from tests.job_records import asked, attempts_of, count, read, state_is
from tests.processes import children_of, has_ended, signal_tree
from tests.servers import wait_until

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
NAPS = ("test.long_nap", "test.heavy_long_nap")
LINGERING = ("test.linger", "test.heavy_linger")
# Where a test waits for the rescue without caring for its promise.
SOON = {"HEARTBEAT_SECONDS": "0.5", "RESCUE_AFTER_SECONDS": "2", "RELAY_SECONDS": "0.5"}


@pytest.fixture
def settings(settings, smtp):
    return settings | smtp.settings


def states(session: Session, *names: str) -> Counter[str]:
    """Count these jobs by state."""
    query = sa.select(JobRecord.state, sa.func.count()).where(JobRecord.name.in_(names)).group_by(JobRecord.state)
    found = session.execute(query).all()
    session.rollback()
    return Counter({state.value: count for state, count in found})


def living(session: Session) -> Counter[str]:
    """Count the processes that send heartbeats by kind."""
    query = (
        sa.select(WorkerProcess.kind, sa.func.count()).where(WorkerProcess.is_alive(10)).group_by(WorkerProcess.kind)
    )
    found = session.execute(query).all()
    session.rollback()
    return Counter(dict(found))


@on_postgresql
def test_the_jobs_of_a_whole_host_run_again_within_15_seconds(app, session, processes):
    doomed = [processes.worker("--processes", "2"), processes.worker("--heavy"), processes.scheduler()]
    ids = [asked(session, "test.linger") for _ in range(6)] + [asked(session, "test.heavy_linger")]
    wait_until(lambda: states(session, *LINGERING)["running"] == 7, seconds=30)
    workers = {id: read(session, id).worker for id in ids}
    processes.scheduler(), processes.worker(), processes.worker("--heavy")
    wait_until(lambda: living(session) == {"light": 3, "heavy": 2, "scheduler": 2}, seconds=30)
    for process in doomed:
        signal_tree(process, signal.SIGKILL)
    wait_until(lambda: all(read(session, id).claims == 2 for id in ids), seconds=15)
    wait_until(lambda: states(session, *LINGERING)["completed"] == 7, seconds=30)
    for id in ids:
        (told,) = attempts_of(session, id)
        assert (told.outcome, told.worker) == (AttemptOutcome.INTERRUPTED, workers[id])
        assert read(session, id).attempt == 1
    assert count(session, Ticket) == 7


@on_sqlite
def test_the_workers_of_a_killed_pool_finish_what_they_run_and_end(session, processes):
    pool = processes.worker("--processes", "2")
    id = asked(session, "test.long_nap", seconds=2)
    wait_until(state_is(session, id, JobState.RUNNING), seconds=30)
    workers = children_of(pool.pid)
    pool.kill()
    wait_until(lambda: all(map(has_ended, workers)), seconds=15)
    record = read(session, id)
    assert (record.state, record.claims) == (JobState.COMPLETED, 1), processes.output()


@on_sqlite
def test_a_work_horse_does_not_outlive_its_killed_worker(session, processes):
    worker = processes.worker("--heavy")
    id = asked(session, "test.heavy_long_nap", seconds=60)
    wait_until(state_is(session, id, JobState.RUNNING), seconds=30)
    (heavy,) = children_of(worker.pid)
    wait_until(lambda: children_of(heavy), seconds=10)
    (horse,) = children_of(heavy)
    os.kill(heavy, signal.SIGKILL)
    wait_until(lambda: has_ended(horse), seconds=5)
    assert count(session, Ticket) == 0


@on_sqlite
def test_a_poison_pill_fails_and_the_jobs_that_share_its_processes_do_not(session, processes):
    poison = enqueue("test.poison", seconds=0.1)
    for _ in range(50):
        enqueue("test.long_nap", seconds=0.2)
    session.commit()
    processes.worker("--processes", "2", WORKER_THREADS="8")
    wait_until(lambda: states(session, "test.long_nap")["completed"] == 50, seconds=60)
    wait_until(state_is(session, poison, JobState.FAILED), seconds=30)
    record = read(session, poison)
    assert record.error_type == "PoisonPillError", processes.output()
    assert "interrupted 3 times in a row" in record.error_message
    told = attempts_of(session, poison)
    assert (
        sum("only this job ran" in attempt.error_message for attempt in told) == 3
    )  # what others shared counts for none
    assert "SIGKILL" in record.error_message
    assert count(session, Ticket) == 50


@on_postgresql
def test_workers_that_were_frozen_and_thought_dead_do_nothing_twice_and_work_on(smtp, app, session, processes):
    frozen = [processes.worker(**SOON), processes.worker("--heavy", **SOON)]
    wait_until(lambda: len(living(session)) == 2, seconds=30)
    smtp.delay_seconds = 0.3
    for name in LINGERING:
        asked(session, name, seconds=3)
    mails = [MailRequest([f"p{n}@example.org"], f"t/{n}", {"server": "mail.example.org"}) for n in range(6)]
    send_mails("test-message", mails)
    session.commit()
    wait_until(lambda: states(session, *LINGERING)["running"] == 2, seconds=30)
    smtp.wait_for(2, 30)
    workers = [child for process in frozen for child in children_of(process.pid)]
    for process in frozen:
        signal_tree(process, signal.SIGSTOP)

    processes.scheduler(**SOON)
    others = [processes.worker(**SOON), processes.worker("--heavy", **SOON)]
    wait_until(lambda: states(session, *LINGERING)["completed"] == 2, seconds=40)
    for process in frozen:
        signal_tree(process, signal.SIGCONT)
    wait_until(lambda: states(session, "mail.deliver")["completed"] == 6, seconds=40)
    assert count(session, Ticket) == 2
    copies = Counter(mail.message["Message-ID"] for mail in smtp.received)
    sent = session.execute(sa.select(EmailMessage.message_id, EmailMessage.uncertain_count)).all()
    session.rollback()
    # What was in a thread's hand when it froze may have left, and is counted.
    assert [1 <= copies[id] <= 1 + uncertain for id, uncertain in sent] == [True] * 6

    for process in others:
        signal_tree(process, signal.SIGKILL)
        process.wait()
    more = [asked(session, "test.long_nap", seconds=0.1), asked(session, "test.heavy_long_nap", seconds=0.1)]
    wait_until(lambda: states(session, *NAPS)["completed"] == 2, seconds=40)
    assert [read(session, id).worker.split("-")[2] for id in more] == list(map(str, workers))
