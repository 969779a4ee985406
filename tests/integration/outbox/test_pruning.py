"""Pruning of job records."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from flask_belfry.core.clock import utc_now
from flask_belfry.outbox import JobRecord, JobState, WorkerProcess, enqueue, prune_pages, prune_records, pruning


def test_pruning_keeps_failed_jobs_longer(session):
    ids = {state: enqueue("test.act") for state in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)}
    live = enqueue("test.act")
    for state, id in ids.items():
        ended = {"state": state, "finished_at": utc_now() - timedelta(days=20)}
        session.execute(sa.update(JobRecord).where(JobRecord.id == id).values(ended))
    old = WorkerProcess(name="old", kind="light", host="h", pid=1, heartbeat_at=utc_now() - timedelta(days=3))
    session.add(old)
    session.commit()
    deleted = prune_records(session, older_than=timedelta(days=14), failed_older_than=timedelta(days=90))
    session.commit()
    assert deleted == 2
    assert set(session.scalars(sa.select(JobRecord.id))) == {ids[JobState.FAILED], live}
    assert session.scalars(sa.select(WorkerProcess)).all() == []


def test_each_page_is_deleted_on_its_own(session, monkeypatch):
    monkeypatch.setattr(pruning, "PAGE_RECORDS", 2)
    ids = [enqueue("test.act") for _ in range(9)]
    session.execute(sa.update(JobRecord).values(state=JobState.COMPLETED, finished_at=utc_now() - timedelta(days=20)))
    kept = {"state": JobState.FAILED, "finished_at": utc_now() - timedelta(days=21)}
    session.execute(sa.update(JobRecord).where(JobRecord.id.in_(ids[:3])).values(kept))
    session.commit()
    pages = prune_pages(session, older_than=timedelta(days=14), failed_older_than=timedelta(days=90))
    assert next(pages) == 2
    session.commit()
    assert next(pages) == 2
    session.rollback()  # what a job does that is stopped within a page
    assert prune_records(session, older_than=timedelta(days=14), failed_older_than=timedelta(days=90)) == 4
    session.rollback()
    assert set(session.scalars(sa.select(JobRecord.id))) == set(ids[:3])
