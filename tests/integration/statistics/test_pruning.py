"""Pruning of statistics."""

from __future__ import annotations

from datetime import timedelta

from flask_belfry.core.clock import utc_now
from flask_belfry.outbox import JobRecord, JobState, enqueue
from flask_belfry.statistics import (
    SYSTEM_ID,
    FailureCount,
    FailureGroup,
    JobStatistics,
    QueueSample,
    Resolution,
    RollUp,
    prune_statistics_pages,
)
from flask_belfry.statistics.roll_up import write_counts
from tests.job_records import count
from tests.statistics_factories import counted


def test_old_statistics_are_deleted(session, work):
    counted(session)
    now = utc_now()
    for days in (1, 3, 89, 91):
        at = now - timedelta(days=days)
        key = {"school_id": SYSTEM_ID, "at": at, "name": "test.act", "queue": "default"}
        write_counts(session, JobStatistics, [{"resolution": each, "completed": 1, **key} for each in Resolution])
        session.add(QueueSample(at=at, queue="default", waiting=0, running=0, scheduled=0, blocked=0))
        values = {"school_id": SYSTEM_ID, "job_name": "test.act", "error_type": "E", "first_seen_at": at}
        group = FailureGroup(fingerprint=str(days), last_seen_at=at, job_id=enqueue("test.act"), **values)
        session.add(group)
        session.flush()
        write_counts(
            session,
            FailureCount,
            [{"group_id": group.id, "resolution": each, "at": at, "failures": 1} for each in Resolution],
        )
    id = enqueue("maintenance.prune_jobs")
    session.commit()
    work()
    record = session.get_one(JobRecord, id)
    assert record.state is JobState.COMPLETED
    # Minutes of three rows and an hour, of both tables; two samples; one group and its count of an hour.
    assert record.result == {"jobs": 0, "statistics": 4 + 4 + 2 + 1}
    for model in (JobStatistics, FailureCount):
        assert count(session, model, model.resolution == Resolution.MINUTE) == 1
        assert count(session, model, model.resolution == Resolution.HOUR) == 3
    assert (count(session, QueueSample), count(session, FailureGroup)) == (2, 3)


def test_old_minutes_that_are_not_added_up_yet_are_kept(session, clock):
    now = utc_now()
    rows = [
        {"resolution": Resolution.MINUTE, "at": now - timedelta(days=days), "school_id": SYSTEM_ID}
        | {"name": "test.act", "queue": "default", "completed": 1}
        for days in (3, 5, 7)
    ]
    write_counts(session, JobStatistics, rows)
    session.add(RollUp(name="jobs", complete_until=now))
    session.commit()
    for complete_until, left in ((None, 3), (now - timedelta(days=6), 2), (now, 0)):
        if complete_until is not None:
            session.merge(RollUp(name="attempts", complete_until=complete_until))
        for _ in prune_statistics_pages(session):
            session.commit()
        assert count(session, JobStatistics) == left
