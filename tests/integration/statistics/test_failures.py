"""Groups of failures: the attempts of jobs that failed for the same cause."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.outbox import JobRecord
from flask_belfry.outbox.models import AttemptOutcome
from flask_belfry.statistics import SYSTEM_ID, FailureGroup, FailureState, failures
from flask_belfry.statistics.reading import FailureCounts, failure_counts, failure_series
from tests.job_records import asked, attempts_of, read
from tests.statistics_factories import attempt, counted, record, together


@pytest.fixture
def opened(monkeypatch) -> list[tuple[str, FailureState]]:
    """The groups that listeners are called with."""
    seen: list[tuple[str, FailureState]] = []

    def see(session: Any, groups: Sequence[FailureGroup]) -> None:
        assert session.in_transaction()
        seen.extend((group.job_name, group.state) for group in groups)

    monkeypatch.setattr(failures, "_listeners", [see])
    return seen


def group(session) -> FailureGroup:
    """The only group."""
    found = session.scalars(sa.select(FailureGroup), execution_options={"populate_existing": True}).one()
    session.rollback()
    session.refresh(found)
    session.rollback()
    return found


def failed(session, at, fingerprint="a" * 16, **columns) -> str:
    """Add a job of school 2 with a failed attempt; return its id."""
    id = record(session, at, school_id=2)
    values = {"fingerprint": fingerprint, "frame": "app/a.py:send", "error_type": "ValueError", "error_message": "no"}
    attempt(session, id, at, **(values | columns))
    session.commit()
    return id


def test_a_failure_has_the_fingerprint_of_its_cause(app, session, work):
    ids = [asked(session, "test.fail") for _ in range(2)]
    work()
    (first,), (second,) = (attempts_of(session, id) for id in ids)
    assert (first.error_type, first.frame) == ("ValueError", "tests/domain.py:fail")
    assert first.fingerprint == second.fingerprint == read(session, ids[0]).fingerprint
    counted(session)
    found = group(session)
    assert (found.school_id, found.job_name, found.error_type, found.frame, found.message, found.failures) == (
        SYSTEM_ID,
        "test.fail",
        "ValueError",
        "tests/domain.py:fail",
        "as it was asked to",
        2,
    )
    assert found.first_release == found.last_release == app.config["RELEASE"]


def test_a_group_counts_each_attempt_once(session, clock, opened):
    failed(session, utc_now() - timedelta(minutes=90))
    last = failed(session, utc_now() - timedelta(seconds=30), error_message="later")
    counted(session)
    counted(session)
    failed(session, utc_now() - timedelta(seconds=40), error_message="earlier, but committed late")
    counted(session)
    found = group(session)
    assert (found.failures, found.job_id, found.message) == (3, last, "later")
    assert found.last_seen_at - found.first_seen_at == timedelta(minutes=89, seconds=30)
    assert failure_counts([found.id]) == {found.id: FailureCounts(hour=2, day=3, week=3)}
    assert sum(value or 0 for _, value in failure_series([found.id], utc_now() - timedelta(days=1))[found.id]) == 3
    assert opened == [("test.act", FailureState.NEW)]


def test_groups_are_of_one_school_and_one_cause(session, clock):
    failed(session, utc_now())
    failed(session, utc_now(), fingerprint="b" * 16)
    attempt(session, record(session, utc_now()), utc_now(), fingerprint="a" * 16, error_type="ValueError")
    attempt(session, record(session, utc_now()), utc_now(), outcome=AttemptOutcome.SNOOZED)
    session.commit()
    counted(session)
    assert session.scalars(sa.select(FailureGroup.failures)).all() == [1, 1, 1]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (FailureState.SEEN, FailureState.SEEN),
        (FailureState.IGNORED, FailureState.IGNORED),
        (FailureState.RESOLVED, FailureState.REGRESSED),
    ],
)
def test_a_resolved_group_that_fails_again_has_regressed(session, clock, opened, state, expected):
    failed(session, utc_now())
    counted(session)
    clock.shift(10)
    change = {"state": state, "changed_at": utc_now()}
    session.execute(sa.update(FailureGroup).values(change))
    session.commit()
    counted(session)
    assert group(session).state is state, "it failed before the change only"
    clock.shift(10)
    failed(session, utc_now())
    counted(session)
    counted(session)
    assert group(session).state is expected
    assert opened[1:] == ([("test.act", expected)] if expected is FailureState.REGRESSED else [])


def test_two_schedulers_open_a_group_once(app, session, clock, opened):
    for number in range(5):
        failed(session, utc_now() - timedelta(seconds=number))
    together(app, lambda: counted(db.session()), times=3)
    assert group(session).failures == 5
    assert opened == [("test.act", FailureState.NEW)]


def test_a_group_outlives_its_jobs(session, clock):
    failed(session, utc_now())
    counted(session)
    session.execute(sa.delete(JobRecord))
    session.commit()
    counted(session)
    assert group(session).failures == 1
