"""How fast queues and batches work, how late schedules run, and the figures of jobs: from rows, on both databases."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.accounts import Role
from flask_belfry.core.clock import utc_now
from flask_belfry.operations import batches, periodic, queues
from flask_belfry.operations.periodic import RunOutcome
from flask_belfry.outbox import JobBatch, JobRecord, JobState, batch, enqueue
from flask_belfry.scheduler import schedule
from flask_belfry.statistics import ALL_ID, JobStatistics, QueueSample, Resolution
from flask_belfry.statistics.histograms import BUCKETS
from flask_belfry.statistics.times import minute_of
from tests.clocks import ENTRY, end_all
from tests.job_records import asked
from tests.reservation_factories import caller, log_in, make_school, make_user

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.replace("<wbr>", "")).split())


def ended(session: Session, minutes_ago: int, completed: int, school_id: int = ALL_ID, queue: str = "bulk") -> None:
    """Count jobs that ended in a minute."""
    buckets: dict[str, Any] = {f"{times}_{number}": 0 for times in ("wait", "run") for number in range(BUCKETS)}
    at = minute_of(utc_now() - timedelta(minutes=minutes_ago))
    key: dict[str, Any] = {"resolution": Resolution.MINUTE, "at": at, "school_id": school_id, "queue": queue}
    session.add(JobStatistics(**key, name="test.mark", **buckets | {"wait_0": completed}, completed=completed))
    session.commit()


def sample(session: Session, seconds_ago: int, **values: Any) -> None:
    """Sample the queue `bulk`."""
    counts = {"waiting": 0, "running": 0, "scheduled": 0, "blocked": 0} | values
    session.add(QueueSample(at=utc_now() - timedelta(seconds=seconds_ago), queue="bulk", **counts))
    session.commit()


def bulk_queue() -> queues.QueueState:
    (found,) = [queue for queue in queues.queues([]) if queue.name == "bulk"]
    return found


def test_what_waits_is_read_from_a_fresh_sample_and_counted_otherwise(session, clock, statements):
    clock.move_to("2030-05-06T10:00:30+00:00")
    id = asked(session, "test.mark", number=1)
    asked(
        session,
        "test.mark",
        number=2,
    )
    sample(session, 121, waiting=9)
    assert (bulk_queue().waiting, bulk_queue().sampled_at) == (2, None)
    oldest_at = utc_now() - timedelta(hours=1)
    sample(session, 20, waiting=900_000, scheduled=7, running=99, blocked=99, oldest_at=oldest_at)
    session.execute(sa.update(JobRecord).where(JobRecord.id == id).values(state=JobState.RUNNING))
    session.commit()
    found = bulk_queue()
    assert (found.waiting, found.scheduled, found.oldest_at) == (900_000, 7, oldest_at)
    # What is counted quickly is counted now.
    assert (found.running, found.blocked_by_pause) == (1, 0)
    assert found.sampled_at == utc_now() - timedelta(seconds=20)


def test_the_rate_of_a_queue_is_that_of_the_last_minutes_and_how_long_it_takes_to_drain(app, client, session, clock):
    clock.move_to("2030-05-06T10:00:00+00:00")
    ended(session, 6, 10_000)
    ended(session, 5, 30)
    ended(session, 1, 20)
    sample(session, 90, waiting=100)
    found = bulk_queue()
    assert (found.per_minute, found.drain_seconds) == (10.0, 600.0)
    output = app.test_cli_runner().invoke(args=["queues", "list"]).output
    assert "10.0 per minute, 10 minutes to drain" in output
    page = words(log_in(client, make_user(Role.ADMIN)).get("/jobs/queues").text)
    assert "bulk 100 – 10 10 minutes" in page
    assert "Waiting and scheduled jobs were counted 1 min ago ." in page


@ON_SQLITE
def test_a_school_has_a_rate_of_its_own_and_no_sample(client, session, clock):
    clock.move_to("2030-05-06T10:00:00+00:00")
    school_id = make_school().id
    ended(session, 1, 500)
    ended(session, 1, 5, school_id)
    sample(session, 10, waiting=100)
    call = caller(client, make_user(Role.STAFF, school_id=school_id), "/api/v1/jobs/queues")
    (found,) = [item for item in call("GET", "/api/v1/jobs/queues").json["items"] if item["name"] == "bulk"]
    assert (found["per_minute"], found["waiting"], found["sampled_at"], found["drain_seconds"]) == (1.0, 0, None, 0)


def test_an_open_batch_has_a_rate_and_a_time_left(client, session, clock, statements):
    clock.move_to("2030-05-06T10:00:00+00:00")
    with batch("sending") as opened:
        ids = [enqueue("test.echo") for _ in range(60)]
    session.commit()
    clock.move_to("2030-05-06T11:00:00+00:00")
    for chosen, minutes_ago in ((ids[:10], 6), (ids[10:20], 4)):
        at = utc_now() - timedelta(minutes=minutes_ago)
        values = {"state": JobState.COMPLETED, "finished_at": at}
        session.execute(sa.update(JobRecord).where(JobRecord.id.in_(chosen)).values(values))
    session.commit()
    found = session.get_one(JobBatch, opened.id)
    counts, paces = batches.counts_and_paces([found])
    pace = paces[found.id]
    assert counts == batches.job_counts([found])
    assert (pace.per_minute, pace.seconds_left) == (2.0, 20 * 60)
    admin = log_in(client, make_user(Role.ADMIN))
    for path in ("/jobs/batches", f"/jobs/batches/{found.id}"):
        assert "2.0 per minute, about 20 minutes left" in words(admin.get(path).text)
    clock.move_to("2030-05-06T11:30:00+00:00")
    assert batches.counts_and_paces([found])[1] == {found.id: batches.Pace(0.0, None)}
    statements.clear()
    assert (batches.job_counts([]), batches.counts_and_paces([])) == ({}, ({}, {}))
    assert statements == []


def test_run_times_are_on_time_late_missed_paused_or_overlapped(app, client, session, clock):
    app.extensions["schedule"] = [ENTRY]
    clock.move_to("2030-05-06T10:00:00+00:00")
    schedule.reconcile(session, [ENTRY])
    clock.move_to("2030-05-06T10:01:01+00:00")
    schedule.tick(session, ENTRY)
    clock.move_to("2030-05-06T10:02:00+00:00")
    schedule.tick(session, ENTRY)  # its predecessor waits
    end_all(session)
    clock.move_to("2030-05-06T10:03:40+00:00")
    schedule.tick(session, ENTRY)
    end_all(session)
    periodic.pause(ENTRY.name)
    clock.move_to("2030-05-06T10:04:00+00:00")
    periodic.resume(ENTRY.name)
    clock.move_to("2030-05-06T10:06:00+00:00")
    schedule.tick(session, ENTRY)
    found = periodic.last_runs(ENTRY.name, limit=10)
    assert [(run.at.minute, run.outcome, run.late_seconds) for run in found] == [
        (6, RunOutcome.ON_TIME, 0),
        (5, RunOutcome.MISSED, 60),
        (4, RunOutcome.PAUSED, 0),
        (3, RunOutcome.LATE, 40),
        (2, RunOutcome.OVERLAPPED, 0),
        (1, RunOutcome.ON_TIME, 1),
    ]
    assert found[4].job_id == found[5].job_id
    output = app.test_cli_runner().invoke(args=["schedule", "list"]).output
    assert "    2030-05-06T10:03:00+00:00  late by 40 s\n    2030-05-06T10:04:00+00:00  paused\n" in output
    page = words(log_in(client, make_user(Role.ADMIN)).get("/schedule").text)
    for text in ("10:06 on time", "10:05 missed", "10:04 paused", "10:03 late by 40 seconds", "10:02 overlapped"):
        assert text in page
    call = caller(client, make_user(Role.ADMIN), "/api/v1/jobs/schedule")
    (entry,) = call("GET", "/api/v1/jobs/schedule").json["items"]
    assert [run["outcome"] for run in entry["last_runs"]] == ["on_time", "missed", "paused", "late", "overlapped"]
    assert len(entry["next_runs"]) == 5


def test_the_figures_of_jobs_are_those_of_the_span_and_the_school(client, session, clock):
    clock.move_to("2030-05-06T10:00:00+00:00")
    school_id = make_school().id
    ended(session, 2, 40)
    ended(session, 2, 4, school_id)
    path = "/api/v1/jobs/stats"
    call = caller(client, make_user(Role.ADMIN), path)
    answer = call("GET", path).json
    assert (answer["span"], answer["since"]) == ("1h", "2030-05-06T09:00:00+00:00")
    (figures,) = answer["items"]
    assert (figures["name"], figures["queue"], figures["completed"], figures["run_p50"]) == (
        "test.mark",
        "bulk",
        40,
        None,
    )
    assert figures["wait_p50"] > 0
    assert call("GET", f"{path}?span=2h").status_code == 422
    call = caller(client, make_user(Role.STAFF, school_id=school_id), path)
    assert [item["completed"] for item in call("GET", f"{path}?span=24h").json["items"]] == [4]
