"""Samples of the queues."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flask_belfry.core.clock import utc_now
from flask_belfry.execution import heartbeat
from flask_belfry.outbox import JobState
from flask_belfry.outbox.registry import QUEUES
from flask_belfry.statistics import QueueSample, Release, queues, sample_queues
from flask_belfry.statistics.reading import latest_samples, releases
from tests.statistics_factories import record


def live(session, state: JobState, **columns: Any) -> None:
    record(session, utc_now(), **({"state": state, "finished_at": None, "started_at": None} | columns))


def test_a_sample_has_what_each_queue_holds(session, clock, monkeypatch):
    now = utc_now()
    day = timedelta(days=1)
    live(session, JobState.PENDING, created_at=now - 5 * day, scheduled_at=now - timedelta(minutes=2))
    live(session, JobState.QUEUED, created_at=now - timedelta(minutes=3), school_id=4)
    live(session, JobState.RUNNING)
    live(session, JobState.SCHEDULED, scheduled_at=now + day)
    live(session, JobState.RETRYABLE, scheduled_at=now + day, queue="mail")
    live(session, JobState.BLOCKED)
    record(session, now)
    live(session, JobState.PENDING, queue="of old code")
    session.commit()
    sample_queues(session)
    found = latest_samples(timedelta(seconds=1))
    assert set(found) == set(QUEUES)
    counts = [(each.waiting, each.running, each.scheduled, each.blocked) for each in (found["default"], found["mail"])]
    assert counts == [(2, 1, 1, 1), (0, 0, 1, 0)]
    assert (found["default"].oldest_at, found["mail"].oldest_at) == (now - timedelta(minutes=3), None)
    clock.shift(30)
    monkeypatch.setattr(queues, "MAX_PENDING", 0)
    sample_queues(session)
    assert latest_samples(timedelta(seconds=1))["default"].waiting == 1
    clock.shift(30)
    assert latest_samples(timedelta(seconds=30)) == {}


def test_a_release_is_known_since_a_process_of_it_started(app, session):
    heartbeat.register(session, "worker-1", "light", ["mail"])
    app.config["RELEASE"] = "new"
    heartbeat.register(session, "worker-2", "light", ["mail"])
    sample_queues(session)
    sample_queues(session)
    assert {each.name for each in releases(utc_now() - timedelta(hours=1))} == {"new", "0.1.0"}
    assert session.scalar(sa.select(sa.func.count()).select_from(Release)) == 2


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_pending_jobs_are_counted_from_their_index(session, statements):
    sample_queues(session)
    (statement,) = {each for each in statements if "INDEXED BY" in each}
    plan = session.execute(sa.text(f"EXPLAIN QUERY PLAN {statement}".replace("?", "1"))).all()
    session.rollback()
    assert any("ix_job_records_backlog" in row[-1] and row[-1].startswith("SEARCH") for row in plan)
    assert session.scalar(sa.select(sa.func.count()).select_from(QueueSample)) == len(QUEUES)
