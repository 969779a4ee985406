"""Workers as real processes: RQ's own commands, time limits that stop any job, and crashes of every kind."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
import sqlalchemy as sa

from flask_belfry.outbox import JobState, WorkerProcess
from flask_belfry.outbox.models import AttemptOutcome
from tests.domain import Ticket
from tests.job_records import asked, attempts_of, count, read, state_is
from tests.processes import BIN, ROOT, answers_at, children_of
from tests.servers import free_port, wait_until

LIGHT = ("-w", "flask_belfry.workers.threaded.ThreadedWorker")
HEAVY = ("-w", "flask_belfry.workers.forking.ForkingWorker")
# What signals and timeouts write is tested on both in test_engine_execution; test_rolling_restart has PostgreSQL.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_rqs_stock_worker_command_runs_the_light_worker(session, processes, settings):
    id = asked(session, "test.greet", ticket_id=1)
    assert processes.run("rq", "worker", *LIGHT, "--url", settings["REDIS_URL"], "--burst", "mail", "default") == 0
    assert read(session, id).state is JobState.COMPLETED, processes.output()


@on_sqlite
def test_rqs_stock_pool_command_runs_light_workers(session, processes, settings):
    ids = [asked(session, "test.greet", ticket_id=n) for n in range(10)]
    command = ("rq", "worker-pool", *LIGHT, "--url", settings["REDIS_URL"], "-n", "2", "--burst", "mail", "default")
    assert processes.run(*command) == 0
    assert {read(session, id).state for id in ids} == {JobState.COMPLETED}, processes.output()


def test_rqs_stock_worker_command_runs_the_heavy_worker(session, processes, settings):
    id = asked(session, "test.heavy_nap", seconds=0.1)
    assert processes.run("rq", "worker", *HEAVY, "--url", settings["REDIS_URL"], "--burst", "heavy") == 0
    record = read(session, id)
    assert record.state is JobState.COMPLETED, processes.output()
    assert record.result["pid"] != os.getpid()
    assert record.worker.startswith("heavy-")


@on_sqlite
@pytest.mark.parametrize(("name", "options"), [("test.greet", ()), ("test.heavy_nap", ("--heavy",))])
def test_workers_begin_no_jobs_while_rq_is_suspended(session, processes, settings, name, options):
    rq = ("--url", settings["REDIS_URL"])
    assert processes.run("rq", "suspend", *rq) == 0
    worker = processes.worker(*options, HEARTBEAT_SECONDS="0.2")
    wait_until(lambda: "worker.suspended" in processes.output(worker))
    id = asked(session, name, **({"seconds": 0.1} if options else {"ticket_id": 1}))

    wait_until(lambda: re.search(r"^worker \S+ .* suspended ", rq_info(processes, settings), re.MULTILINE))
    assert read(session, id).state is JobState.PENDING
    assert processes.run("rq", "resume", *rq) == 0
    wait_until(state_is(session, id, JobState.COMPLETED))
    assert "worker.resumed" in processes.output(worker)


@on_sqlite
def test_rq_info_shows_idle_workers_with_what_they_have_finished(session, processes, settings):
    processes.worker(HEARTBEAT_SECONDS="0.2")
    id = asked(session, "test.greet", ticket_id=1)
    wait_until(state_is(session, id, JobState.COMPLETED))
    idle = r"^worker light-\S+ .* idle mail, default, bulk\. jobs: 1 finished, 0 failed$"
    wait_until(lambda: re.search(idle, rq_info(processes, settings), re.MULTILINE))


def rq_info(processes, settings) -> str:
    process = processes.start("rq", "info", "--raw", "--url", settings["REDIS_URL"])
    process.wait(60)
    return processes.output(process)


@on_sqlite
def test_the_honcho_line_of_the_documentation_starts_all_processes(session, processes):
    line = re.search(r"^(honcho start .+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert line
    port = free_port()
    search = f"{BIN}:{os.environ['PATH']}"
    honcho = processes.start(*line[1].split(), PORT=str(port), PATH=search)
    wait_until(lambda: answers_at(port), seconds=60)
    kinds = sa.select(WorkerProcess.kind)
    wait_until(lambda: rows(session, kinds) == {"light", "heavy", "scheduler"}, seconds=60)
    honcho.send_signal(signal.SIGTERM)
    honcho.wait(60)


def rows(session, query):
    found = set(session.scalars(query))
    session.rollback()
    return found


@on_sqlite
def test_a_heavy_job_that_sits_in_c_is_stopped_by_its_timeout(session, processes):
    id = asked(session, "test.heavy_nap", seconds=50)
    began = time.monotonic()
    assert processes.worker("--heavy", "--burst").wait(60) == 0
    assert time.monotonic() - began < 30
    record = read(session, id)
    assert (record.state, record.error_type) == (JobState.FAILED, "JobTimeoutError"), processes.output()
    assert attempts_of(session, id)[0].outcome is AttemptOutcome.TIMED_OUT
    assert count(session, Ticket) == 0


@on_sqlite
@pytest.mark.parametrize(("name", "options"), [("test.fork", ()), ("test.heavy_fork", ("--heavy",))])
def test_what_a_job_forks_ends_by_a_signal_as_any_program(session, processes, name, options):
    id = asked(session, name)
    assert processes.worker("--burst", *options).wait(60) == 0
    assert read(session, id).result == {"exit": -signal.SIGTERM, "signals": []}, processes.output()


@on_sqlite
def test_an_undecodable_copy_at_rq_is_nothing_to_the_heavy_worker(session, processes, broker):
    id = asked(session, "test.heavy_nap", seconds=0)
    broker.hset(f"rq:job:{id}", "data", b"\x80\x04 not json")
    assert processes.worker("--heavy", "--burst").wait(60) == 0
    assert read(session, id).state is JobState.COMPLETED, processes.output()


def test_a_killed_work_horse_is_an_interruption_on_record_and_its_job_runs_again(session, processes):
    id = asked(session, "test.crash", times=2)
    processes.worker("--heavy", "--burst").wait(60)
    record = read(session, id)
    assert (record.state, record.result) == (JobState.COMPLETED, "survived"), processes.output()
    assert (record.attempt, record.claims) == (1, 3)
    told = attempts_of(session, id)
    assert [attempt.outcome for attempt in told] == [AttemptOutcome.INTERRUPTED] * 2
    assert "SIGKILL" in told[0].error_message
    assert count(session, Ticket) == 1


def test_the_third_death_in_a_row_fails_the_job_as_a_poison_pill(session, processes):
    id = asked(session, "test.crash", times=9)
    processes.worker("--heavy", "--burst").wait(60)
    record = read(session, id)
    assert (record.state, record.error_type) == (JobState.FAILED, "PoisonPillError"), processes.output()
    assert record.claims == 3


@on_sqlite
def test_sigterm_lets_a_running_job_finish(session, processes):
    id = asked(session, "test.long_nap", seconds=2)
    worker = processes.worker()
    wait_until(state_is(session, id, JobState.RUNNING), seconds=30)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert read(session, id).state is JobState.COMPLETED, processes.output()


@on_sqlite
def test_sigterm_releases_what_does_not_finish_within_the_grace(session, processes):
    id = asked(session, "test.long_nap", seconds=30)
    worker = processes.worker(SHUTDOWN_GRACE_SECONDS="1")
    wait_until(state_is(session, id, JobState.RUNNING), seconds=30)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    record = read(session, id)
    assert record.state is JobState.PENDING, processes.output()
    assert (record.attempt, record.interruptions) == (0, 0)
    assert count(session, Ticket) == 0


@on_sqlite
def test_sigterm_gives_a_heavy_job_back_too(session, processes):
    id = asked(session, "test.heavy_long_nap", seconds=60)
    worker = processes.worker("--heavy", SHUTDOWN_GRACE_SECONDS="1")
    wait_until(state_is(session, id, JobState.RUNNING), seconds=30)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    record = read(session, id)
    assert (record.state, record.attempt, record.interruptions) == (JobState.PENDING, 0, 0), processes.output()
    assert attempts_of(session, id) == []


@on_sqlite
def test_a_second_sigterm_gives_everything_back_at_once(session, processes):
    id = asked(session, "test.long_nap", seconds=30)
    worker = processes.worker()
    wait_until(state_is(session, id, JobState.RUNNING), seconds=30)
    worker.send_signal(signal.SIGTERM)
    time.sleep(1.2)  # RQ ignores a second signal within a second
    assert worker.poll() is None
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 0
    record = read(session, id)
    assert (record.state, record.attempt, record.interruptions) == (JobState.PENDING, 0, 0), processes.output()


def test_a_pool_replaces_a_worker_that_died_and_gives_its_job_to_another_at_once(session, processes):
    pool = processes.worker("--processes", "2")
    id = asked(session, "test.linger")
    wait_until(state_is(session, id, JobState.RUNNING), seconds=30)
    first = read(session, id).worker
    victim = session.scalar(sa.select(WorkerProcess.pid).where(WorkerProcess.name == first))
    session.rollback()
    os.kill(victim, signal.SIGKILL)
    wait_until(state_is(session, id, JobState.COMPLETED), seconds=30)  # no scheduler runs here
    (told,) = attempts_of(session, id)
    assert (told.outcome, told.worker) == (AttemptOutcome.INTERRUPTED, first), processes.output()
    assert f"process {victim}) died: SIGKILL" in told.error_message
    assert count(session, Ticket) == 1
    wait_until(lambda: len(set(children_of(pool.pid)) - {victim}) == 2, seconds=20)
    pool.send_signal(signal.SIGTERM)
    assert pool.wait(30) == 0


@pytest.mark.slow
@on_sqlite
def test_a_light_job_that_sits_in_c_past_its_timeout_ends_the_process_and_not_its_neighbour(
    session, processes, tmp_path
):
    beside = asked(session, "test.wait", file=str(tmp_path / "go"))
    processes.worker(MAX_INTERRUPTIONS="2")
    wait_until(state_is(session, beside, JobState.RUNNING), seconds=30)
    id = asked(session, "test.nap", seconds=45, uninterrupted=True)
    wait_until(lambda: attempts_of(session, id), seconds=60)
    assert attempts_of(session, id)[0].error_message.endswith("did not react to its timeout, by this job")
    (tmp_path / "go").touch()
    wait_until(state_is(session, beside, JobState.COMPLETED), seconds=30)
    (told,) = attempts_of(session, beside)
    assert told.error_message.endswith(f"did not react to its timeout, by test.nap {id}"), processes.output()
    assert count(session, Ticket) == 1
