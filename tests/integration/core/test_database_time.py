"""The database's clock decides what is due: wrong clocks of the hosts make nothing early or late."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy as sa
import time_machine

from flask_belfry.core.clock import MEASURE_SECONDS, DatabaseTime, database_time, utc_now
from flask_belfry.db.columns import database_now, new_id
from flask_belfry.outbox import JobState, enqueue
from tests.job_records import asked, read, state_is
from tests.servers import wait_until

MEASURE_IF_DUE = DatabaseTime.measure_if_due
on_a_server = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
FIVE_MINUTES = timedelta(minutes=5)
MUCH = timedelta(minutes=4)
# The name of the program is the second argument, as if it had been started with the right clock.
PROGRAM = """
import sys, time_machine
from datetime import datetime, timedelta, timezone
moment = datetime.now(timezone.utc) + timedelta(seconds=float(sys.argv.pop(1)))
time_machine.travel(moment).start()
import cli, tests.domain
app = cli.create()
"""
SCHEDULER = PROGRAM + "import scheduler; scheduler.main(app)"
WORKER = PROGRAM + "sys.argv = ['cli.py', 'jobs', 'worker']; cli.main(app)"


@pytest.fixture
def measured(monkeypatch):
    """This process looks at the server's clock, as it does outside of tests."""
    monkeypatch.setattr(DatabaseTime, "measure_if_due", MEASURE_IF_DUE)
    yield
    database_time.use_host()


@pytest.fixture(params=[-1, 1], ids=["behind", "ahead"])
def wrong_clock(measured, request):
    """The host's clock is wrong from before the process began."""
    with time_machine.travel(datetime.now(UTC) + request.param * FIVE_MINUTES):
        yield


@on_a_server
@pytest.mark.usefixtures("wrong_clock")
def test_a_delay_counts_from_the_databases_moment_even_for_the_first_job_of_a_process(app, session):
    record = read(session, asked(session, delay=60))
    now = session.execute(sa.select(database_now())).scalar_one()
    assert record.scheduled_at is not None
    assert abs(record.scheduled_at - timedelta(seconds=60) - now) < MUCH
    assert abs(record.created_at - now) < MUCH
    assert new_id(now - MUCH) < new_id() < new_id(now + MUCH)


@on_a_server
@pytest.mark.usefixtures("measured")
def test_a_step_of_the_hosts_clock_changes_nothing(app, session):
    session.execute(sa.select(database_now()))
    before = utc_now()
    with time_machine.travel(before - FIVE_MINUTES, tick=False):
        assert before <= utc_now() < before + MUCH


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("measured")
def test_sqlite_has_the_hosts_clock(app, session):
    with time_machine.travel("2030-01-01T12:00:00Z", tick=False):
        assert read(session, asked(session)).created_at == datetime(2030, 1, 1, 12, tzinfo=UTC)


class Server:
    """A connection to a server whose clock differs by `ahead_seconds` and which is asked `count` times."""

    def __init__(self) -> None:
        self.ahead_seconds, self.count = 0.0, 0

    def exec_driver_sql(self, statement: str) -> Any:
        self.count += 1
        moment = datetime.now(UTC) + timedelta(seconds=self.ahead_seconds)
        return SimpleNamespace(scalar_one=lambda: moment)


def test_the_servers_clock_is_read_again_only_after_a_while_and_corrects_the_estimate():
    estimate, server = DatabaseTime(), Server()
    for ahead_seconds, count in ((0, 1), (900, 1), (900, 2)):
        if count == 2:
            estimate._measured_at -= MEASURE_SECONDS
        server.ahead_seconds = ahead_seconds
        MEASURE_IF_DUE(estimate, cast(sa.Connection, server))
        assert server.count == count
        is_corrected = estimate.now() - datetime.now(UTC) > FIVE_MINUTES
        assert is_corrected == (count == 2)


@on_a_server
def test_a_scheduler_five_minutes_behind_and_a_worker_five_minutes_ahead_run_what_is_due_in_time(
    app, session, processes
):
    processes.start("python", "-c", SCHEDULER, str(-FIVE_MINUTES.total_seconds()))
    processes.start("python", "-c", WORKER, str(FIVE_MINUTES.total_seconds()))
    due = enqueue("test.greet", ticket_id=0, delay=1)
    later = enqueue("test.greet", ticket_id=0, delay=200)
    session.commit()
    wait_until(state_is(session, due, JobState.COMPLETED), seconds=60)
    record = read(session, due)
    assert record.finished_at is not None
    assert abs(record.finished_at - utc_now()) < MUCH
    assert read(session, later).state is JobState.SCHEDULED
