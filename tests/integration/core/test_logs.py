"""What the processes log by themselves: a line when they start, and one for each request."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from flask_belfry.core.logs import VERSION, without_secrets
from tests.conftest import make_app
from tests.processes import ROOT
from tests.reservation_factories import log_in, make_user
from tests.servers import free_port, wait_until

# Nothing here is about the database.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def requests(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    lines = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    return [line for line in lines if line["event"] == "request"]


@on_sqlite
def test_each_request_is_one_line_without_query_and_token(client, session, caplog):
    user = make_user()
    id = user.id
    log_in(client, user)
    caplog.clear()
    session.rollback()
    secret = "kJ3_-x" * 7
    client.get("/start?code=654-321", headers={"X-Request-Id": "request-1"})
    client.get(f"/reset-password/{secret}")
    client.get(f"/no-such-page/{secret}/")
    client.get("/jobs/0192f0c1-2d3e-7abc-8def-0123456789ab")
    first, *others = requests(caplog)
    assert (first["method"], first["path"], first["status"], first["request_id"]) == ("GET", "/start", 302, "request-1")
    assert first["user_id"] == id
    assert first["ms"] > 0
    assert [line["path"] for line in others] == [
        "/reset-password/[secret]",
        "/no-such-page/[secret]/",
        "/jobs/0192f0c1-2d3e-7abc-8def-0123456789ab",
    ]
    assert secret not in caplog.text
    assert "654-321" not in caplog.text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://desk:hunter2@db.example.org:5432/belfry?sslpassword=hunter2", "postgresql://db.example.org:5432/belfry"),
        ("redis+sentinel://:hunter2@a:26379,b:26379/main/0", "redis+sentinel://a:26379,b:26379/main/0"),
        ("unix:///run/valkey.sock?password=hunter2", "unix:///run/valkey.sock"),
        ("sqlite:////srv/belfry.sqlite3", "sqlite:////srv/belfry.sqlite3"),
    ],
)  # fmt: skip
def test_urls_are_shown_without_secrets(url, shown):
    assert without_secrets(url) == shown


@on_sqlite
def test_each_process_begins_with_a_line_that_says_what_it_is(processes, settings):
    logged = {"APP_ENV": "development", "LOG_FORMAT": "json"}
    started = {
        "worker": processes.worker("--queues", "mail,bulk", **logged),
        "heavy": processes.worker("--heavy", **logged),
        "scheduler": processes.scheduler(**logged),
        "web": processes.web(free_port(), "tests.root:app", **logged),
    }

    def first_line(role: str) -> dict[str, Any] | None:
        found = [line for line in processes.output(started[role]).splitlines() if "process.started" in line]
        return json.loads(found[0]) if found else None

    for role in started:
        wait_until(lambda role=role: first_line(role), seconds=60)
    lines = {role: first_line(role) for role in started}
    for role, line in lines.items():
        assert (line["role"], line["version"], line["database"]) == (role, VERSION, settings["DATABASE_URL"])
        assert line["broker"] == settings["REDIS_URL"]
    assert lines["worker"]["queues"] == ["mail", "bulk"]
    assert lines["heavy"]["queues"] == ["heavy"]
    assert lines["web"]["threads"] == 8


@on_sqlite
def test_a_name_that_is_not_a_setting_is_logged_at_each_start(settings, tmp_path, caplog):
    make_app(settings | {"MAIL_SEVER": "smtp.example.org"}, tmp_path)
    (line,) = [record.msg for record in caplog.records if "setting.unknown" in record.getMessage()]
    assert (line["name"], line["nearest"]) == ("MAIL_SEVER", "MAIL_SERVER")


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
