"""Our commands: whatever is wrong is one line on stderr, and every list has JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from click import Context
from click.testing import Result
from flask import Flask

from flask_belfry.core.clock import utc_now
from flask_belfry.core.commands import CommandGroup
from flask_belfry.db import db
from flask_belfry.outbox import LIVE, JobRecord, JobState, Schedule, enqueue
from flask_belfry.scheduler import schedule
from tests.conftest import make_app

ONCE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
SOME_ID = "0192f0c1-2d3e-7abc-8def-0123456789ab"
# Every command that reads or writes the database, in its shortest form.
COMMANDS = {
    "audit list": "",
    "batches list": "",
    "batches show": SOME_ID,
    "batches cancel": SOME_ID,
    "batches retry": SOME_ID,
    "demo load": "",
    "demo wipe": "--yes",
    "failures list": "",
    "failures show": SOME_ID,
    "failures see": SOME_ID,
    "failures ignore": SOME_ID,
    "failures resolve": SOME_ID,
    "failures reopen": SOME_ID,
    "failures retry": SOME_ID,
    "jobs list": "",
    "jobs operations list": "",
    "jobs operations show": SOME_ID,
    "jobs operations stop": SOME_ID,
    "jobs operations undo": SOME_ID,
    "jobs show": SOME_ID,
    "jobs watch": "",
    "jobs workers": "",
    "jobs stop-worker": "host-1.4711",
    "jobs enqueue": "maintenance.prune",
    "jobs retry": "--filter state:failed",
    "jobs cancel": "--filter state:pending",
    "jobs run": SOME_ID,
    "jobs stats": "",
    "jobs prune": "",
    "jobs relay": "",
    "jobs take-broker": "",
    "mail list": "",
    "mail show": SOME_ID,
    "mail resend": SOME_ID,
    "mail confirm-sent": SOME_ID,
    "mail suppressions": "",
    "mail holds": "",
    "notifications list": "",
    "notifications show": SOME_ID,
    "notifications send": "--to everyone --title Hello --body Hello",
    "notifications retry": SOME_ID,
    "notifications cancel": SOME_ID,
    "queues list": "",
    "queues pause": "mail",
    "queues resume": "mail",
    "schedule list": "",
    "schedule create": "nightly --job maintenance.prune --every 1h",
    "schedule update": "custom.nightly --every 1h",
    "schedule delete": "custom.nightly",
    "schedule run": "maintenance.prune",
    "schedule pause": "maintenance.prune",
    "schedule resume": "maintenance.prune",
    "schools list": "",
    "schools create": "Lovelace --slug lovelace",
    "schools rename": "school Lovelace",
    "schools disable": "lovelace",
    "schools enable": "lovelace",
    "users allow-operate": "ada",
    "users forbid-operate": "ada",
    "users list": "",
    "users create": "--email a@example.org --username ada --password long-enough-secret",
    "users set-role": "ada staff",
    "users set-password": "ada --password long-enough-secret",
    "users confirm": "ada",
    "users enable": "ada",
    "users disable": "ada",
    "users reset-second-factor": "ada",
    "work-items list": "",
    "work-items set-status": "DONE 1 --as ada",
}
# They report on, start or show what needs no database; or another test runs them.
WITHOUT_DATABASE = {"jobs names", "jobs worker", "mail preview", "mail test", "mail bounce"}


def run(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=list(arguments))


def assert_one_line(result: Result, status: int = 1) -> str:
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (status, "", 1), result.output
    return result.stderr


@pytest.fixture
def lost(settings: dict[str, Any], tmp_path: Path) -> Iterator[Flask]:
    """An application whose database and broker do not answer."""
    nowhere = {"DATABASE_URL": "postgresql://127.0.0.1:1/nowhere", "REDIS_URL": "redis://127.0.0.1:1"}
    yield from opened(make_app(settings | nowhere, tmp_path))


@pytest.fixture
def unmigrated(settings: dict[str, Any], empty_database: str, tmp_path: Path) -> Iterator[Flask]:
    yield from opened(make_app(settings | {"DATABASE_URL": empty_database}, tmp_path))


def opened(app: Flask) -> Iterator[Flask]:
    with app.app_context():
        yield app
        db.session.remove()
        db.engine.dispose()


# ── One line ─────────────────────────────────────────────────────────────────────────────────────────────────────


def names_of(group: CommandGroup, prefix: str, context: Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, CommandGroup) and not command.invoke_without_command:
            yield from names_of(command, f"{prefix} {name}", context)
        else:
            yield f"{prefix} {name}"


@ONCE
def test_the_list_of_commands_above_is_complete(app):
    context = Context(app.cli)
    found = {name: app.cli.get_command(context, name) for name in app.cli.list_commands(context)}
    groups = {name: group for name, group in found.items() if isinstance(group, CommandGroup) and name != "dev"}
    own = {name for prefix, group in groups.items() for name in names_of(group, prefix, context)}
    assert own == COMMANDS.keys() | WITHOUT_DATABASE


@ONCE
@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_that_does_not_answer_is_reported_in_one_line(lost, command):
    line = assert_one_line(run(lost, *command.split(), *COMMANDS[command].split()))
    assert "the database does not answer: check that it runs, and DATABASE_URL" in line


@ONCE
@pytest.mark.parametrize("command", COMMANDS)
def test_an_unmigrated_database_is_reported_in_one_line(unmigrated, command):
    line = assert_one_line(run(unmigrated, *command.split(), *COMMANDS[command].split()))
    assert "run `flask --app wsgi db upgrade`" in line


@ONCE
def test_migrating_without_a_database_is_reported_in_one_line(lost, caplog):
    result = run(lost, "db", "upgrade")
    assert result.exit_code == 1
    assert "the database does not answer" in caplog.messages[-1]
    assert not caplog.records[-1].exc_info


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs", "list", "--name", "\udcff"],
        ["mail", "list", "--text", "\udcff"],
    ],
    ids=lambda arguments: " ".join(arguments[:3]),
)
def test_a_value_that_the_database_refuses_is_reported_in_one_line(app, arguments):
    assert_one_line(run(app, *arguments), 2)


@ONCE
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["jobs", "enqueue", "mail.deliver", "--args", '{"email_id": NaN}'], 1),
        (["jobs", "enqueue", "mail.deliver", "--args", '{"email_id": 1e999}'], 1),
        (["jobs", "enqueue", "mail.deliver", "--args", "[" * 100_000], 2),
        (["jobs", "enqueue", "mail.deliver", "--args", "9" * 5_000], 2),
        (["jobs", "enqueue", "no.such"], 1),
        (["jobs", "list", "--since", "99999999d"], 2),
        (["jobs", "list", "--since", f"{'9' * 400}d"], 2),
        (["jobs", "list", "--since", "0001-01-01T00:00+14:00"], 2),
        (["jobs", "list", "--since", "9999-12-31T23:59-14:00"], 2),
        (["jobs", "list", "--since", "yesterday"], 2),
        (["jobs", "list", "--limit", "99999999999999999999"], 2),
        (["jobs", "prune", "--older-than", "999999999999"], 2),
        (["jobs", "retry"], 2),
        (["jobs", "retry", SOME_ID, "--state", "failed"], 2),
        (["jobs", "--nope"], 2),
        (["jobs", "nope"], 2),
        (["nope"], 2),
        (["jbos", "list"], 2),
        (["doctor", "--nope"], 2),
        (["jobs", "worker", "--nope"], 2),
        (["audit", "list", "--user", "99999999999999999999"], 2),
        (["work-items", "set-status", "DONE", "99999999999999999999", "--as", "ada"], 2),
        (["batches", "cancel", "nope"], 1),
        (["batches", "retry", SOME_ID], 1),
        (["jobs", "retry", SOME_ID, "--canary", "5"], 2),
        (["jobs", "cancel", SOME_ID, "--pace", "5"], 2),
        (["jobs", "retry", "--filter", " "], 1),
        (["jobs", "retry", "--filter", "name:test.*", "--pace", "0.001"], 1),
        (["jobs", "retry", "--filter", "name:test.*", "--canary", "101"], 2),
        (["jobs", "operations", "nope"], 2),
        (["jobs", "operations", "stop", "nope"], 1),
        (["failures", "list", "--state", "nope"], 2),
        (["failures", "list", "--cursor", "nope"], 1),
        (["failures", "ignore", "nope"], 1),
        (["queues", "pause", "nope"], 1),
        (["queues", "pause", "mail", "--for", "soon"], 2),
        (["queues", "pause", "mail", "--for", "99999999d"], 1),
        (["queues", "pause", "mail", "--reason", "x" * 201], 1),
        (["queues", "resume", "mail"], 1),
        (["schedule", "run", "nope"], 1),
        (["schedule", "pause", "nope"], 1),
        (["users", "enable", "nobody"], 1),
    ],
    ids=lambda value: " ".join(value)[:60].encode("ascii", "replace").decode() if isinstance(value, list) else "",
)
def test_a_wrong_value_is_reported_in_one_line(app, arguments, status):
    assert_one_line(run(app, *arguments), status)


@ONCE
def test_an_unexpected_error_is_reported_in_one_line(app, monkeypatch):
    monkeypatch.setattr("flask_belfry.operations.services.counts_by_state", lambda: 1 / 0)
    line = assert_one_line(run(app, "jobs", "stats"))
    assert "ZeroDivisionError: division by zero (LOG_LEVEL=DEBUG shows the traceback)" in line


# ── Lists ────────────────────────────────────────────────────────────────────────────────────────────────────────


@ONCE
@pytest.mark.parametrize(
    "command",
    [
        "failures list",
        "jobs list",
        "jobs names",
        "jobs operations list",
        "schedule list",
        "mail list",
        "mail preview",
        "audit list",
        "users list",
        "work-items list",
    ],
)
def test_every_list_has_json(app, command):
    result = run(app, *command.split(), "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert isinstance(json.loads(result.stdout), list)


@ONCE
def test_a_mail_is_previewed_as_json_in_all_its_parts(app):
    shown = json.loads(run(app, "mail", "preview", "account-deleted", "--json").stdout)
    assert list(shown) == ["subject", "text", "html"]
    assert shown["html"].startswith("<!DOCTYPE html>")


@ONCE
def test_the_list_of_jobs_has_a_header_and_each_jobs_age(app, session):
    id = enqueue("test.greet", ticket_id=1)
    session.commit()
    session.execute(sa.update(JobRecord).values(created_at=utc_now() - timedelta(hours=2, minutes=1)))
    session.commit()
    header, line = run(app, "jobs", "list").stdout.splitlines()
    assert header.split() == ["ID", "STATE", "TRY", "AGE", "NAME", "SUBJECT"]
    assert line.startswith(f"{id}  ")
    assert "  2 h ago  test.greet" in line


# ── Jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def finalized(session, state):
    id = enqueue("test.greet", ticket_id=1)
    session.commit()
    session.execute(sa.update(JobRecord).where(JobRecord.id == id).values(state=state, finished_at=utc_now()))
    session.commit()
    return id


def states(session, *ids):
    session.expire_all()
    found = [session.get(JobRecord, id).state for id in ids]
    session.rollback()
    return [state in LIVE for state in found]


@ONCE
def test_a_filter_retries_failed_jobs_and_cancelled_ones_only_on_request(app, session):
    ids = [finalized(session, JobState.FAILED), finalized(session, JobState.CANCELLED)]
    assert run(app, "jobs", "retry", "--filter", "--name", "test.greet").stdout == "1 of 1 jobs retried\n"
    assert states(session, *ids) == [True, False]
    assert run(app, "jobs", "retry", "--filter", "--state", "cancelled").exit_code == 0
    assert states(session, *ids) == [True, True]


@ONCE
def test_a_cancelled_job_that_is_named_runs_again(app, session):
    id = finalized(session, JobState.CANCELLED)
    assert run(app, "jobs", "retry", id).exit_code == 0
    assert states(session, id) == [True]


@ONCE
def test_a_search_selects_the_jobs_of_a_command(app, session):
    first, second = [enqueue("test.greet", ticket_id=number) for number in (1, 2)]
    session.commit()
    result = run(app, "jobs", "list", "args.ticket_id:2 name:test.*", "--json")
    assert [row["id"] for row in json.loads(result.stdout)] == [second]
    result = run(app, "jobs", "list", "args.ticket_id:2", "--state", "failed")
    assert (result.stdout, result.stderr) == ("", "no job matches\n")
    assert run(app, "jobs", "cancel", "--filter", " -args.ticket_id:2").exit_code == 0
    assert states(session, first, second) == [False, True]
    assert run(app, "jobs", "retry", "--filter", "state:cancelled", "--name", "test.*").exit_code == 0
    assert states(session, first, second) == [True, True]
    for words in (
        ("list", "color:red"),
        ("cancel", "--filter", "state:failed"),
        ("retry", "--filter", "state:running"),
    ):
        result = run(app, "jobs", *words)
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1


@ONCE
def test_a_list_is_continued_where_it_stopped(app, session, monkeypatch):
    monkeypatch.setattr("flask_belfry.search.running.WINDOW", 1)
    first, _ = [enqueue("test.greet", ticket_id=number) for number in (1, 2)]
    session.commit()
    result = run(app, "jobs", "list", "args.ticket_id:1", "--json")
    assert json.loads(result.stdout) == []
    searched, continued = result.stderr.splitlines()
    assert searched.startswith("searched back to 20")
    result = run(app, "jobs", "list", "args.ticket_id:1", *continued.split()[2:], "--json")
    assert [row["id"] for row in json.loads(result.stdout)] == [first]


@ONCE
def test_a_delayed_job_is_run_now(app, session):
    id = enqueue("test.echo", delay=3600)
    session.commit()
    assert run(app, "jobs", "run", id).stdout == "1 of 1 jobs enqueued to run now\n"
    assert states(session, id) == [True]
    refused = run(app, "jobs", "run", id)
    assert refused.exit_code != 0
    assert "Only jobs that wait for their time" in refused.stderr


@ONCE
def test_a_job_is_followed_until_it_is_finalized(app, session, monkeypatch, work):
    id = enqueue("test.greet", ticket_id=1)
    session.commit()
    # Not the `sleep` of all threads.
    monkeypatch.setattr("flask_belfry.operations.jobs_cli.time", SimpleNamespace(sleep=lambda _: work()))
    result = run(app, "jobs", "show", id, "--follow", "--json")
    assert result.exit_code == 0
    assert [line.split()[1] for line in result.stderr.splitlines()] == ["pending", "completed"]
    assert json.loads(result.stdout)["state"] == "completed"


# ── Schedule ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_schedule_is_run_and_paused_before_the_first_scheduler_has_run(app, session):
    assert session.scalars(sa.select(Schedule)).all() == []
    session.rollback()
    assert run(app, "schedule", "run", "maintenance.prune").exit_code == 0
    assert session.scalars(sa.select(JobRecord.name)).all() == ["maintenance.prune"]
    session.rollback()
    assert run(app, "schedule", "pause", "maintenance.prune").exit_code == 0
    shown = {row["name"]: row["state"] for row in json.loads(run(app, "schedule", "list", "--json").stdout)}
    assert shown["maintenance.prune"] == "paused"
    # The first scheduler keeps it so.
    schedule.reconcile(session, app.extensions["schedule"])
    assert session.get(Schedule, "maintenance.prune").paused_at is not None
