"""The commands that list and show groups of failures, change their state and retry their jobs."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import sqlalchemy as sa

from app.audit import AuditEntry
from flask_belfry.core.clock import utc_now
from flask_belfry.operations import BulkOperation
from flask_belfry.outbox import JobState
from flask_belfry.statistics import FailureGroup
from tests.statistics_factories import attempt, counted, record

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
CAUSE, OTHER = "a" * 16, "b" * 16


def run(app, *arguments):
    return app.test_cli_runner().invoke(args=["failures", *arguments])


@pytest.fixture
def failed(session, clock):
    """The id of a group of two failed jobs, beside a group that failed earlier."""
    for cause, minutes in ((OTHER, 120), (CAUSE, 2), (CAUSE, 1)):
        at = utc_now() - timedelta(minutes=minutes)
        id = record(session, at, fingerprint=cause, state=JobState.FAILED, error_type="ValueError", attempt=1)
        columns = {"error_type": "ValueError", "error_message": "no such\nroom", "worker": "web-1:worker-2"}
        attempt(session, id, at, fingerprint=cause, frame="app/a.py:send", traceback="in send\nValueError", **columns)
    session.commit()
    counted(session)
    return session.scalars(sa.select(FailureGroup.id).where(FailureGroup.fingerprint == CAUSE)).one()


def test_groups_are_listed_and_shown_with_their_counts_and_the_traceback(app, failed):
    header, first, second = run(app, "list").stdout.splitlines()
    assert header.split() == [
        "ID",
        "STATE",
        "1",
        "H",
        "24",
        "H",
        "7",
        "D",
        "FAILED",
        "LAST",
        "SEEN",
        "JOB",
        "AND",
        "ERROR",
    ]
    assert first.split()[:6] == [failed, "new", "2", "2", "2", "2"]
    assert first.endswith("test.act: ValueError: no such room")
    assert second.split()[1:6] == ["new", "0", "1", "1", "1"]
    (found,) = json.loads(run(app, "list", "--text", CAUSE, "--json").stdout)
    assert (found["id"], found["failures_1h"], found["failed_jobs"]) == (failed, 2, 2)
    page = run(app, "list", "--limit", "1", "--json")
    assert page.stderr.startswith("continue with --cursor ")
    (next_,) = json.loads(run(app, "list", "--json", *page.stderr.split()[2:]).stdout)
    assert next_["fingerprint"] == OTHER
    shown = run(app, "show", failed).stdout
    assert f"fingerprint      {CAUSE}\n" in shown
    assert shown.endswith("worker           web-1:worker-2\nin send\nValueError\n")
    assert json.loads(run(app, "show", failed, "--json").stdout)["attempt"]["traceback"] == "in send\nValueError"


@pytest.mark.parametrize(
    ("verb", "state"), [("see", "seen"), ("ignore", "ignored"), ("resolve", "resolved")], ids=lambda value: value
)
def test_a_state_is_changed_once_and_recorded(app, session, failed, verb, state):
    assert run(app, verb, failed).stdout == f"test.act: ValueError is {state}\n"
    repeated = run(app, verb, failed)
    assert (repeated.exit_code, repeated.stderr) == (1, f"Error: The group is already {state}.\n")
    if verb != "see":
        assert [row["id"] for row in json.loads(run(app, "list", "--state", state, "--json").stdout)] == [failed]
        assert failed not in run(app, "list").stdout
        assert run(app, "reopen", failed).stdout == "test.act: ValueError is seen\n"
    actions = session.scalars(sa.select(AuditEntry.action)).all()
    assert sorted(actions) == sorted([f"failure_group.{verb}", *(["failure_group.reopen"] if verb != "see" else [])])


@pytest.mark.parametrize(
    ("options", "numbers"),
    [((), (5, 5.0)), (("--canary", "1", "--pace", "0.5"), (1, 0.5)), (("--canary", "0", "--pace", "0"), (None, None))],
    ids=["as suggested", "given", "switched off"],
)
def test_the_jobs_of_a_group_are_retried_by_an_operation(app, session, failed, options, numbers):
    result = run(app, "retry", failed, *options)
    operation = session.scalars(sa.select(BulkOperation)).one()
    assert result.stdout == f"operation {operation.id} has begun: 2 jobs\n"
    assert (operation.group_id, operation.canary, operation.per_second) == (failed, *numbers)
    assert session.get_one(FailureGroup, failed).state == "seen"


def test_without_failures_the_list_says_so(app):
    assert run(app, "list").stderr == "no group of failures matches\n"
