"""The read side of the statistics: figures and series of a time, in a scope."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from flask_belfry.core.clock import utc_now
from flask_belfry.db.tenancy import NOTHING, scope_of, use_scope
from flask_belfry.outbox import JobState
from flask_belfry.statistics.reading import JobFigures, ended_by_queue, job_figures, series
from tests.statistics_factories import counted, record

WEEK, HOUR, MINUTE = timedelta(days=7), timedelta(hours=1), timedelta(minutes=1)


@pytest.fixture
def history(session, clock):
    """A job of each hour of a week, of school 1 or 2, each of which waited 4 s and ran 20 s; the last one failed."""
    now = utc_now()
    for hours in range(24 * 7 - 1):
        at = now - timedelta(hours=hours, seconds=30)
        times = {"created_at": at - timedelta(seconds=24), "started_at": at - timedelta(seconds=20)}
        state = JobState.COMPLETED if hours else JobState.FAILED
        record(session, at, school_id=1 + hours % 2, state=state, **times)
    session.commit()
    counted(session)
    session.rollback()
    return now


def test_figures_of_a_week_are_added_up_from_hours_and_minutes(session, history, statements):
    (found,) = job_figures(history - WEEK)
    assert (found.completed, found.failed) == (166, 1)
    assert [round(each or 0, 1) for each in (found.wait_p50, found.run_p50)] == [3.8, 20.0]
    assert 2.5 <= (found.wait_p95 or 0) <= 5.0
    assert 10.0 <= (found.run_p99 or 0) <= 30.0
    assert len(statements) == 3
    assert ended_by_queue(history - WEEK) == {"default": 167}


def test_figures_of_an_hour_have_the_minutes_of_it(session, history):
    none = JobFigures("test.act", "default", 0, 1, 0, 0, 3.75, 4.875, 4.975, 20.0, 29.0, 29.8)
    assert job_figures(history - HOUR) == [none]
    assert job_figures(history - HOUR, history - 30 * MINUTE) == []


def test_a_school_has_its_own_figures(session, history):
    with use_scope(scope_of(2)):
        (found,) = job_figures(history - WEEK)
        assert (found.completed, found.failed) == (83, 0)
        assert job_figures(history - WEEK, school_id=1) == []
    with use_scope(NOTHING):
        assert job_figures(history - WEEK) == []
    (found,) = job_figures(history - WEEK, school_id=1)
    assert (found.completed, found.failed) == (83, 1)
    with use_scope(scope_of(2)):  # also when this process has read them
        assert job_figures(history - WEEK, school_id=1) == []


def test_complete_hours_are_read_once(session, history, clock, statements):
    job_figures(history - WEEK)
    statements.clear()
    record(session, utc_now(), state=JobState.FAILED)
    session.commit()
    counted(session)
    statements.clear()
    (found,) = job_figures(history - WEEK)
    assert (found.completed, found.failed) == (166, 2)
    assert len(statements) == 2


def test_a_series_has_a_value_for_each_point(session, history):
    found = series(["completed"], history - WEEK, points=7)["completed"]
    assert [at for at, _ in found] == [found[0][0] + timedelta(days=day) for day in range(7)]
    assert sum(value or 0 for _, value in found) == 166
    counts = series(["failed"], history - HOUR, points=60, name="test.act", queue="default")["failed"]
    assert (len(counts), [value for _, value in counts[-3:]]) == (60, [0, 1, 0])
    assert series(["failed"], history - HOUR, name="test.other")["failed"][-1][1] == 0
    times = series(["wait_p50", "run_p95"], history - HOUR, points=30)
    assert [value for _, value in times["run_p95"]] == [None] * 29 + [29.0]
    assert [value for _, value in times["wait_p50"]] == [None] * 29 + [3.75]


def test_an_unknown_metric_is_refused(session):
    with pytest.raises(ValueError, match=r"metric must be one of completed, .*, not 'resolution'"):
        series(["completed", "resolution"], utc_now() - HOUR)


def test_the_command_prints_the_figures(app, session, history):
    printed = app.test_cli_runner().invoke(args=["jobs", "stats"]).output
    assert "test.act" in printed
    read = json.loads(app.test_cli_runner().invoke(args=["jobs", "stats", "--json"]).stdout)
    assert read["failed"] == 1
    assert [read[span][0]["completed"] for span in ("1h", "24h", "7d")] == [0, 24, 166]
