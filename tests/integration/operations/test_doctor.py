"""`flask doctor`: side by side, within a limit, and each cause is named once."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.operations import doctor
from flask_belfry.outbox import JobRecord, JobState, WorkerProcess, enqueue
from tests.conftest import make_app

ONCE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def findings(app: Flask) -> dict[str, tuple[bool, str]]:
    with app.app_context():
        result = app.test_cli_runner().invoke(args=["doctor", "--json"])
        db.session.remove()
        db.engine.dispose()
    assert result.stderr == ""
    found = {row["part"]: (row["is_ok"], row["message"]) for row in json.loads(result.stdout)}
    assert result.exit_code == (0 if all(is_ok for is_ok, _ in found.values()) else 1)
    return found


@pytest.fixture
def unresponsive() -> Iterator[int]:
    """The port of a server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@ONCE
def test_an_unresponsive_server_of_each_kind_is_reported_within_the_limit(
    settings: dict[str, Any], unresponsive: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(doctor, "LIMIT_SECONDS", 0.5)
    nowhere = {
        "DATABASE_URL": f"postgresql://127.0.0.1:{unresponsive}/nowhere",
        "REDIS_URL": f"redis://127.0.0.1:{unresponsive}",
        "MAIL_SERVER": "127.0.0.1",
        "MAIL_PORT": str(unresponsive),
    }
    # Each of the three waits for longer by itself: 5 s, 2 s and 10 s.
    assert findings(make_app(settings | nowhere, tmp_path)) == {
        "settings": (True, "APP_ENV=testing"),
        "database": (False, f"no response within 0.5 s: {doctor.REMEDIES['database']}"),
        "broker": (False, f"no response within 0.5 s: {doctor.REMEDIES['broker']}"),
        "smtp": (False, f"no response within 0.5 s: {doctor.REMEDIES['smtp']}"),
    }


@ONCE
def test_a_development_inbox_that_does_not_run_is_named(settings: dict[str, Any], tmp_path: Path):
    found = findings(make_app(settings, tmp_path))
    assert found["smtp"] == (False, "the development inbox is not running: `make run` starts it")


@ONCE
def test_missing_workers_are_named_once_for_each_command_that_starts_them(app, session):
    session.add(WorkerProcess(name="light-1", kind="light", host="here", pid=1, queues="mail,bulk"))
    session.commit()
    found = findings(app)
    assert found["light workers"] == (False, "none for default: start `python cli.py jobs worker`")
    assert found["heavy workers"] == (False, "none for heavy: start `python cli.py jobs worker --heavy`")
    session.add(WorkerProcess(name="light-2", kind="light", host="here", pid=2, queues="default,bulk"))
    session.commit()
    assert findings(app)["light workers"] == (True, "mail 1, default 1, bulk 2")


@ONCE
def test_a_database_that_does_not_answer_is_named_once(settings: dict[str, Any], tmp_path: Path):
    off = {"DATABASE_URL": "postgresql://127.0.0.1:1/nowhere", "MAIL_ENABLED": "false"}
    found = findings(make_app(settings | off, tmp_path))
    assert [part for part, (is_ok, _) in found.items() if not is_ok] == ["database"]
    assert found["database"][1].startswith("the database does not answer")


@ONCE
def test_an_unmigrated_database_is_named_once(settings: dict[str, Any], empty_database: str, tmp_path: Path):
    found = findings(make_app(settings | {"DATABASE_URL": empty_database, "MAIL_ENABLED": "false"}, tmp_path))
    assert [part for part, (is_ok, _) in found.items() if not is_ok] == ["migrations"]
    assert found["migrations"][1] == "the database is not migrated: run `flask --app wsgi db upgrade`"


@ONCE
def test_mail_that_is_off_is_not_an_error(settings: dict[str, Any], tmp_path: Path):
    found = findings(make_app(settings | {"MAIL_ENABLED": "false"}, tmp_path))
    assert found["smtp"] == (True, "disabled: MAIL_ENABLED is false, mails are recorded as suppressed")


@ONCE
def test_without_workers_by_design_none_is_missed(settings: dict[str, Any], tmp_path: Path):
    found = findings(make_app(settings | {"JOBS_EAGER": "true", "MAIL_ENABLED": "false"}, tmp_path))
    assert list(found) == ["settings", "database", "migrations", "schedule", "jobs", "held domains", "smtp"]


def test_jobs_that_failed_within_a_day_are_counted(app, session):
    app.config["MAIL_ENABLED"] = False
    assert findings(app)["jobs"] == (True, "none failed in the last day")
    for age in (0, 2):
        id = enqueue("test.greet", ticket_id=1)
        session.commit()
        failed = {"state": JobState.FAILED, "finished_at": utc_now() - age * doctor.RECENT}
        session.execute(sa.update(JobRecord).where(JobRecord.id == id).values(failed))
        session.commit()
    is_ok, message = findings(app)["jobs"]
    assert not is_ok
    assert message.startswith("1 job failed in the last day: see `flask jobs list --state failed`")


@ONCE
def test_production_misses_an_operator_and_a_public_address(settings: dict[str, Any], tmp_path: Path):
    production = {
        "APP_ENV": "production",
        "ADMIN_EMAIL": "",
        "MAIL_ENABLED": "false",
        "PUBLIC_URL": "http://localhost:5000",
        "MAIL_SEVER": "smtp.example.org",
    }
    is_ok, message = findings(make_app(settings | production, tmp_path))["settings"]
    assert not is_ok
    assert [problem.split()[0] for problem in message.split("; ")] == ["MAIL_SEVER", "ADMIN_EMAIL", "PUBLIC_URL"]
    assert "did you mean MAIL_SERVER?" in message
