"""The chaos finds rows of another school, and counts that are not those of what they count."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.notifications import NotificationRecipient, Targets
from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.outbox import JobBatch, JobState
from flask_belfry.statistics import FailureGroup, JobStatistics, JobTotals, Resolution
from tests.chaos import schools, tallies
from tests.chaos.domain import Step
from tests.notification_factories import sent
from tests.push_factories import device
from tests.reservation_factories import make_school, make_user
from tests.statistics_factories import attempt, record


def test_a_row_a_recipient_and_a_push_message_of_another_school_are_named(session: Session) -> None:
    user, other = make_user(), make_user(school_id=make_school().id)
    notification = sent(Targets(users=(user.id,)), title=f"s{user.school_id}.1")
    token = device(other).token
    assert schools.foreign({}) == []
    record(session, utc_now(), school_id=other.school_id, subject_type="notification", subject_id=notification.id)
    record(session, utc_now(), name="chaos.quick", args={"key": f"s{user.school_id}.2"}, school_id=other.school_id)
    session.execute(sa.update(NotificationRecipient).values(user_id=other.id))
    found = schools.foreign({(notification.id, token): [1.0]})
    assert len(found) == 4, found


@pytest.mark.parametrize(
    ("model", "column", "found"),
    [
        (JobStatistics, "completed", "7 completed jobs"),
        (JobStatistics, "attempts", "7 failed attempts"),
        (JobTotals, "failed", "7 failed in the totals"),
        (JobStatistics, "cancelled", "7 in the hour"),
        (FailureGroup, "failures", "7 failures of the group"),
        (JobBatch, "completed", "'completed': 7"),
    ],
)
def test_counts_that_are_not_those_of_what_they_count_are_named(session: Session, model, column, found) -> None:
    at = utc_now() - timedelta(hours=2)
    session.connection().execute(sa.schema.CreateTable(table_of(Step)))
    failed = record(session, at, state=JobState.FAILED, name="test.fail")
    attempt(session, failed, at, fingerprint="0123456789abcdef", error_type="ValueError")
    session.add(Step(job_id=failed, state="failed", claim=1, worker=None))
    batch = JobBatch(name="b", then_args={}, finished_at=at, completed=1, failed=0, cancelled=0)
    session.add(batch)
    session.flush()
    record(session, at, batch_id=batch.id)
    session.commit()
    assert tallies.miscounted() == []
    # Minutes are not counted again after two minutes, and hours never.
    is_hour = [JobStatistics.resolution == Resolution.HOUR] if found.endswith("hour") else []
    session.execute(sa.update(model).where(*is_hour).values({column: 7}))
    assert any(found in text for text in tallies.miscounted())
