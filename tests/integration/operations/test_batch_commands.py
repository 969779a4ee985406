"""The commands that list, show, cancel and retry batches."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from app.audit import AuditEntry
from flask_belfry.changes import Subject
from flask_belfry.outbox import JobState, batch, enqueue
from tests.job_records import state_of


def run(app, *arguments):
    return app.test_cli_runner().invoke(args=["batches", *arguments])


@pytest.fixture
def sending(session):
    """A committed batch of three jobs, one of which fails."""
    with batch("sending", then="test.finish", subject=Subject("ticket", 7)) as opened:
        ids = [enqueue("test.echo"), enqueue("test.echo"), enqueue("test.fail")]
    session.commit()
    return opened.id, ids


def test_batches_are_listed_and_shown_with_the_number_of_their_jobs_in_each_state(app, session, sending, work):
    id, _ = sending
    assert f"{id}  open" in run(app, "list", "--open").output
    assert "0/3" in run(app, "list").output
    shown = json.loads(run(app, "show", id, "--json").stdout)
    assert (shown["name"], shown["state"], shown["jobs"]) == ("sending", "open", {"pending": 3})
    assert (shown["then"], shown["subject"], shown["finished_at"]) == ("test.finish", "ticket/7", None)
    assert "jobs             pending 3" in run(app, "show", id).output
    assert run(app, "cancel", id).output == "3 cancelled, 0 requested to stop\n"
    (row,) = json.loads(run(app, "list", "--json").stdout)
    assert (row["state"], row["jobs"]) == ("cancelled", {"cancelled": 3})
    assert row["then_job_id"] is not None
    assert "3/3" in run(app, "list").output
    assert run(app, "list", "--open").stderr == "no batch matches\n"


def test_a_batch_is_cancelled_and_retried_and_both_actions_are_recorded(app, session, sending, work):
    id, ids = sending
    run(app, "cancel", id)
    assert run(app, "retry", id).output == "0 jobs retried\n"
    assert run(app, "retry", id, "--cancelled").output == "3 jobs retried\n"
    assert [state_of(session, each) for each in ids] == [JobState.PENDING] * 3
    work()
    assert run(app, "retry", id).output == "1 jobs retried\n"
    actions = session.scalars(sa.select(AuditEntry.action).where(AuditEntry.subject_id == id)).all()
    assert sorted(actions) == ["batch.cancel", "batch.retry", "batch.retry"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_finished_batch_is_not_cancelled(app, session, sending):
    id, _ = sending
    run(app, "cancel", id)
    result = run(app, "cancel", id)
    assert (result.exit_code, result.stderr) == (1, f"Error: batch {id} is finished already\n")
