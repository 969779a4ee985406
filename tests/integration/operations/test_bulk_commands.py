"""The commands that begin, list, show, stop and undo bulk operations."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from flask_belfry.operations import bulk, bulk_cli
from flask_belfry.outbox import JobState
from tests.job_records import asked, delayed, state_of

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def run(app, *arguments):
    return app.test_cli_runner().invoke(args=["jobs", *arguments])


def listed(app):
    return json.loads(run(app, "operations", "list", "--json").stdout)


def test_many_jobs_that_match_are_changed_by_an_operation(app, session, work, monkeypatch):
    monkeypatch.setattr(bulk, "MAX_TOGETHER", 2)
    ids = [delayed(session) for _ in range(3)]
    result = run(app, "cancel", "--filter", "name:test.echo")
    (begun,) = listed(app)
    assert result.stdout == f"operation {begun['id']} has begun: 3 jobs\n"
    assert result.stderr == f"see `flask jobs operations show {begun['id']} --follow`\n"
    assert (begun["kind"], begun["state"], begun["jobs"], begun["user_id"]) == ("cancel", "running", 3, None)
    work()
    assert {state_of(session, id) for id in ids} == {JobState.CANCELLED}
    shown = run(app, "operations", "show", begun["id"], "--follow")
    assert shown.stderr.endswith("  finished  3 of 3, 3 changed\n")
    assert "can_undo         true\n" in shown.stdout
    assert run(app, "operations", "undo", begun["id"]).exit_code == 0
    work()
    assert {state_of(session, id) for id in ids} == {JobState.COMPLETED}
    header, newest, oldest = run(app, "operations", "list").stdout.splitlines()
    assert header.split() == ["ID", "STATE", "KIND", "DONE", "CHANGED", "AGE", "JOBS"]
    assert newest.split()[1:5] == ["finished", "retry", "3/3", "3"]
    assert oldest.endswith("  name:test.echo")


def test_a_canary_and_a_pace_are_those_of_the_operation_also_for_few_jobs(app, session, work):
    asked(session, "test.fail")
    work()
    result = run(app, "retry", "--filter", "name:test.*", "--name", "test.fail", "--canary", "1")
    assert result.exit_code == 1
    assert "give name either within the search or beside it" in result.stderr
    assert run(app, "retry", "--filter", "--name", "test.fail", "--canary", "1", "--pace", "2.5").exit_code == 0
    (begun,) = listed(app)
    assert (begun["query"], begun["canary"], begun["per_second"]) == ("name:test.fail", 1, 2.5)
    assert run(app, "operations", "stop", begun["id"]).stdout == "stopped: 0 of 1 jobs are changed\n"
    assert run(app, "operations", "stop", begun["id"]).stderr == "Error: The operation has already ended.\n"
    assert run(app, "operations", "undo", begun["id"]).exit_code == 1


def test_an_operation_is_followed_until_it_ends(app, session, work, monkeypatch):
    delayed(session)
    run(app, "cancel", "--filter", "name:test.echo", "--pace", "100")
    (begun,) = listed(app)
    monkeypatch.setattr(bulk_cli, "time", SimpleNamespace(sleep=lambda _: work()))
    shown = run(app, "operations", "show", begun["id"], "--follow", "--json")
    states = [line.split("  ", 1)[1] for line in shown.stderr.splitlines()]
    assert states == ["running  0 of 1, 0 changed", "finished  1 of 1, 1 changed"]
    assert (json.loads(shown.stdout)["state"], json.loads(shown.stdout)["ended"]) == ("finished", 1)


def test_without_operations_the_list_says_so(app):
    assert run(app, "operations", "list").stderr == "there are no bulk operations\n"
