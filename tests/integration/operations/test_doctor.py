"""`flask doctor`: side by side, within a limit, and each cause is named once."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.db.columns import new_id
from flask_belfry.mail.models import MailDomainHold
from flask_belfry.operations import problems
from flask_belfry.outbox import JobRecord, JobState, WorkerProcess, enqueue, publisher
from flask_belfry.statistics import FailureGroup, FailureState
from tests.conftest import make_app
from tests.servers import free_port, wait_until
from tests.smtp import SmtpServer

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
    monkeypatch.setattr(problems, "LIMIT_SECONDS", 0.5)
    nowhere = {
        "DATABASE_URL": f"postgresql://127.0.0.1:{unresponsive}/nowhere",
        "REDIS_URL": f"redis://127.0.0.1:{unresponsive}",
        "MAIL_SERVER": "127.0.0.1",
        "MAIL_PORT": str(unresponsive),
    }
    # Each of the three waits for longer by itself: 5 s, 2 s and 10 s.
    assert findings(make_app(settings | nowhere, tmp_path)) == {
        "settings": (True, "APP_ENV=testing"),
        "database": (False, f"no response within 0.5 s: {problems.REMEDIES['database']}"),
        "broker": (False, f"no response within 0.5 s: {problems.REMEDIES['broker']}"),
        "smtp": (False, f"no response within 0.5 s: {problems.REMEDIES['smtp']}"),
    }


@ONCE
def test_a_development_inbox_that_does_not_run_is_named(settings: dict[str, Any], tmp_path: Path):
    found = findings(make_app(settings, tmp_path))
    assert found["smtp"] == (False, "the development inbox is not running: `make run` starts it")


@ONCE
def test_a_mail_server_that_is_down_is_named_with_a_remedy(settings: dict[str, Any], tmp_path: Path):
    port = free_port()
    down = {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": str(port)}
    found = findings(make_app(settings | down, tmp_path))
    assert found["smtp"] == (
        False,
        f"cannot use 127.0.0.1:{port}: [Errno 111] Connection refused: check that it is running, MAIL_SERVER and"
        " MAIL_PORT; mails are tried again",
    )


@ONCE
def test_the_problem_of_a_mail_server_disappears_soon_after_it_runs_again(
    settings: dict[str, Any], tmp_path: Path, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(problems, "RECENT_SECONDS", 0.0)
    app = make_app(settings | smtp.settings, tmp_path)

    def is_well() -> bool | None:
        with app.app_context():
            return {each.part: each.is_ok for each in problems.recent(app)[0]}.get("smtp")

    smtp.stop()
    wait_until(lambda: is_well() is False, seconds=20)
    smtp.start()
    wait_until(is_well, seconds=20)
    smtp.stop()
    # What works is checked less often.
    assert [is_well() for _ in range(3)] == [True] * 3


@ONCE
def test_missing_workers_are_named_once_for_each_command_that_starts_them(app, session):
    session.add(WorkerProcess(name="light-1", kind="light", host="here", pid=1, queues="mail,bulk"))
    session.commit()
    found = findings(app)
    assert found["light workers"] == (False, "no worker serves `default`: start `python cli.py jobs worker`")
    assert found["heavy workers"] == (False, "no worker serves `heavy`: start `python cli.py jobs worker --heavy`")
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


def failed_job(session: Session, error_type: str, age: timedelta = timedelta(), **values: Any) -> datetime:
    """A job that failed so long ago; return when."""
    at = utc_now() - age
    id = enqueue("test.greet", ticket_id=1)
    session.commit()
    failed = {"state": JobState.FAILED, "finished_at": at, "error_type": error_type, **values}
    session.execute(sa.update(JobRecord).where(JobRecord.id == id).values(failed))
    session.commit()
    return at


def test_jobs_that_failed_within_a_day_are_named_by_their_error(app, session):
    app.config["MAIL_ENABLED"] = False
    assert findings(app)["jobs"] == (True, "none failed in the last day")
    failed_job(session, "ConnectionRefusedError", timedelta(days=2))
    since = failed_job(session, "ConnectionRefusedError", timedelta(minutes=3))
    failed_job(session, "ConnectionRefusedError")
    failed_job(session, "ValueError")
    is_ok, message = findings(app)["jobs"]
    assert not is_ok
    assert re.match(
        rf"2 jobs failed with ConnectionRefusedError since (\S+ )?{since:%H:%M} UTC: 1 job failed with", message
    )
    assert message.endswith("then retry them: `flask jobs retry --filter error:ConnectionRefusedError`")


@pytest.mark.parametrize(
    ("state", "changed", "is_ok"),
    [
        (FailureState.SEEN, timedelta(), False),
        (FailureState.IGNORED, timedelta(hours=-1), True),
        (FailureState.RESOLVED, timedelta(minutes=1), True),
        (FailureState.RESOLVED, timedelta(minutes=-1), False),
    ],
)
def test_failures_that_a_user_has_ignored_or_resolved_are_no_problem(app, session, state, changed, is_ok):
    app.config["MAIL_ENABLED"] = False
    at = failed_job(session, "ValueError", fingerprint="f" * 16)
    seen = {"first_seen_at": at, "last_seen_at": at, "job_id": new_id(), "job_name": "test.greet"}
    group = FailureGroup(school_id=0, fingerprint="f" * 16, error_type="ValueError", state=state, **seen)
    group.changed_at = at + changed
    session.add(group)
    session.commit()
    assert findings(app)["jobs"][0] is is_ok


@ONCE
def test_a_part_that_does_not_respond_hides_no_other(app, monkeypatch: pytest.MonkeyPatch):
    ended = threading.Event()
    monkeypatch.setattr(problems, "_migrations", lambda _: str(ended.wait(60)))
    try:
        found = findings(app)
    finally:
        ended.set()
    assert found["migrations"] == (False, f"no response within 2 s: {problems.REMEDIES['database']}")
    assert [found[part][0] for part in ("settings", "database", "schedule", "jobs", "held domains")] == [True] * 5


@ONCE
def test_a_check_that_raises_is_reported_as_such(app, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(problems, "_settings", lambda _: {}["nothing"])
    assert findings(app)["settings"] == (False, "the check failed with KeyError: 'nothing': see the log")


@ONCE
def test_a_scheduler_that_is_silent_is_named_with_its_silence(app, session):
    assert findings(app)["scheduler"][1].startswith("no scheduler is running: start `python scheduler.py`")
    process = WorkerProcess(
        name="s", kind="scheduler", host="here", pid=1, heartbeat_at=utc_now() - timedelta(seconds=40)
    )
    session.add(process)
    session.commit()
    is_ok, message = findings(app)["scheduler"]
    assert not is_ok
    assert re.match(r"scheduler silent for 4[0-9] s: start `python scheduler.py`", message)
    process.stopped_at = utc_now()
    session.commit()
    assert findings(app)["scheduler"][1].startswith("no scheduler is running")


@ONCE
def test_a_broker_that_may_evict_keys_is_a_warning_until_it_may_not(app):
    connection = publisher().connection
    connection.config_set("maxmemory-policy", "allkeys-lru")
    try:
        found = {each.part: each for each in problems.check_all(app)}["broker memory"]
    finally:
        connection.config_set("maxmemory-policy", "noeviction")
    assert (found.is_ok, found.severity) == (False, "warning")
    assert found.message.startswith("Redis may evict keys: maxmemory-policy is allkeys-lru: set it to noeviction")
    assert {each.part: each for each in problems.check_all(app)}["broker memory"].is_ok


@ONCE
def test_a_server_that_refuses_our_mail_is_named_with_what_it_misses(app, session):
    reply = "550-5.7.26 This mail has been blocked because the sender is unauthenticated. Fails DMARC."
    now = utc_now()
    session.add(
        MailDomainHold(
            domain="gmail.com", refusals=5, last_reply=reply, held_since=now, held_until=now + timedelta(hours=1)
        )
    )
    session.commit()
    result = app.test_cli_runner().invoke(args=["doctor", "--json"])
    [found] = [row for row in json.loads(result.stdout) if row["part"] == "held domains"]
    assert found["cause"] == "gmail.com refuses our mail: DMARC"
    assert found["remedy"].startswith(
        f"its server replied: {reply}; fix what it names, then `flask mail holds lift gmail"
    )
    assert (found["url"], found["severity"], found["is_ok"]) == ("/mails/suppressions", "error", False)
    assert found["message"].startswith(f"{found['cause']} since ")
    assert found["message"].endswith(found["remedy"])


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
