"""The commands that list, pause and resume queues, job names and limit keys; and what the doctor notes of pauses."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from app.audit import AuditEntry
from flask_belfry.execution import claim
from flask_belfry.outbox import JobState
from tests.job_records import asked, state_of

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def run(app, *arguments):
    return app.test_cli_runner().invoke(args=["queues", *arguments])


def test_pauses_are_listed_with_their_reason_and_end_and_what_they_block(app, session, broker):
    id = asked(session, "test.act")
    assert (
        run(app, "pause", "default", "--for", "2h", "--reason", "the server is moved").output
        == "queue default paused\n"
    )
    claim.claim(session, [id], "w")
    listed = json.loads(run(app, "list", "--json").stdout)
    (queue,) = [row for row in listed["queues"] if row["name"] == "default"]
    assert (queue["waiting"], queue["blocked_by_pause"], queue["blocked_by_limit"], queue["is_paused"]) == (
        0,
        1,
        0,
        True,
    )
    (pause,) = listed["pauses"]
    assert (pause["kind"], pause["name"], pause["reason"]) == ("queue", "default", "the server is moved")
    assert pause["ends_at"] is not None
    text = run(app, "list").output
    assert "0 waiting  blocked: 0 by limits, 1 by pauses  PAUSED" in text
    assert "paused: queue default, by the system, until 20" in text
    doctor = app.test_cli_runner().invoke(args=["doctor"]).output
    assert "none failed in the last day; paused: queue default (see `flask queues list`)" in doctor
    assert run(app, "resume", "default").output == "queue default resumed\n"
    assert state_of(session, id) is JobState.PENDING
    actions = session.scalars(sa.select(AuditEntry.action).where(AuditEntry.subject_id == "default")).all()
    assert sorted(actions) == ["queue.pause", "queue.resume"]


def test_the_kind_of_a_name_is_found_and_an_ambiguous_one_is_refused(app, session):
    assert run(app, "pause", "test.act").output == "job test.act paused\n"
    asked(session, "test.limited", key="k")
    assert run(app, "pause", "test/k").output == "limit test/k paused\n"
    assert run(app, "pause", "test.act", "--kind", "limit").output == "limit test.act paused\n"
    result = run(app, "resume", "test.act")
    assert (result.exit_code, "it names a job and a limit" in result.stderr) == (1, True)
    assert run(app, "resume", "test.act", "--kind", "job").exit_code == 0
    assert run(app, "resume", "test.act").output == "limit test.act resumed\n"
