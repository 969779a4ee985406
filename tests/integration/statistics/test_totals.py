"""The totals of statistics: each complete minute is added once, and pruning takes nothing from them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from flask_belfry.db import table_of
from flask_belfry.mail import MailStatistics, MailTotals
from flask_belfry.statistics import ALL_ID, JobStatistics, JobTotals, Resolution
from flask_belfry.statistics.totals import add_to_totals

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def minute(at: datetime, **counts: int) -> JobStatistics:
    return JobStatistics(resolution=Resolution.MINUTE, at=at, name="test.greet", queue="default", **counts)


def totals(session) -> list[tuple[int, int, int]]:
    session.commit()
    columns = table_of(JobTotals).c
    return [tuple(row) for row in session.execute(sa.select(columns.completed, columns.failed, columns.wait_3))]


def test_each_complete_minute_of_all_schools_is_added_once_and_pruning_takes_nothing_away(session):
    later = NOON + timedelta(minutes=1)
    session.add_all(
        [
            minute(NOON, school_id=0, completed=3, wait_3=2),
            minute(NOON, school_id=7, completed=4, failed=1, wait_3=5),
            minute(NOON, school_id=ALL_ID, completed=7, failed=1, wait_3=7),
            minute(later, school_id=ALL_ID, completed=10, failed=2),
            JobStatistics(
                resolution=Resolution.HOUR, at=NOON, school_id=ALL_ID, name="test.greet", queue="default", completed=99
            ),
        ]
    )
    session.flush()
    add_to_totals(session, JobStatistics, JobTotals, None, later)
    assert totals(session) == [(7, 1, 7)]
    session.execute(sa.delete(JobStatistics).where(JobStatistics.at < later))
    add_to_totals(session, JobStatistics, JobTotals, later, later + timedelta(minutes=1))
    assert totals(session) == [(17, 3, 7)]
    add_to_totals(session, JobStatistics, JobTotals, later + timedelta(minutes=1), later + timedelta(minutes=2))
    assert totals(session) == [(17, 3, 7)]


def test_mails_are_added_by_kind(session):
    for kind, sent in (("welcome", 2), ("reminder", 3)):
        session.add(MailStatistics(resolution=Resolution.MINUTE, at=NOON, school_id=ALL_ID, kind=kind, sent=sent))
    session.flush()
    add_to_totals(session, MailStatistics, MailTotals, None, NOON + timedelta(minutes=1))
    columns = table_of(MailTotals).c
    found = session.execute(sa.select(columns.kind, columns.sent, columns.failed).order_by(columns.kind))
    assert [tuple(row) for row in found] == [("reminder", 3, 0), ("welcome", 2, 0)]
