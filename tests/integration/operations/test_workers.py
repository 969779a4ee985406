"""The page, the API and the commands of workers, on both databases."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.accounts import Role
from app.audit import AuditEntry
from flask_belfry.core.clock import utc_now
from flask_belfry.execution import claim, heartbeat
from flask_belfry.outbox import JobRecord, WorkerProcess
from tests.job_records import asked
from tests.reservation_factories import caller, log_in, make_user

PAGE, API = "/jobs/workers", "/api/v1/jobs/workers"


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.replace("<wbr>", "")).split())


def row(page: str, name: str) -> str:
    found = re.search(rf'<tr id="worker-{name}">.*?</tr>', page, re.DOTALL)
    return words(found[0]) if found else ""


def add(session: Session, name: str, kind: str = "light", silent_seconds: int = 0, **values: Any) -> None:
    """Add a process that sent its last heartbeat so many seconds ago."""
    at = utc_now() - timedelta(seconds=silent_seconds)
    values = {"host": "berta", "pid": 4711, "queues": "default,bulk", "heartbeat_at": at} | values
    session.add(WorkerProcess(name=name, kind=kind, **values))
    session.commit()


@pytest.fixture
def admin(client):
    return log_in(client, make_user(Role.ADMIN))


def test_the_page_shows_what_each_process_runs_and_how_it_does(admin, session):
    assert "No process runs" in admin.get(PAGE).text
    add(session, "one", memory_bytes=123_000_000, jobs_done=4321, release="1.2.3")
    add(session, "late", "heavy", silent_seconds=8)
    add(session, "lost", silent_seconds=60)
    add(session, "gone", silent_seconds=3_600)
    add(session, "ended", stopped_at=utc_now())
    add(session, "clock", "scheduler", queues="")
    ids = [asked(session, "test.mark", number=number) for number in range(4)]
    claim.claim(session, ids, "one")
    for path in (PAGE, f"{PAGE}/live"):
        page = admin.get(path).text
        shown = row(page, "one")
        for text in ("light berta, process 4711 running default, bulk", "test.mark for", "1 more", "4,321 123 MB"):
            assert text in shown
        assert "1.2.3 Stop" in shown
        assert f'href="/jobs/{ids[0]}"' in page
        assert " silent " in row(page, "late")
        assert " lost " in row(page, "lost")
        # It no longer stops, and a scheduler is stopped by its process manager.
        assert "Stop this worker?" not in row(page, "lost") + row(page, "clock")
        assert row(page, "gone") + row(page, "ended") == ""
    assert admin.get("/jobs/?q=state:running+worker:one").text.count('id="job-') == 4


def test_an_admin_stops_a_worker_and_the_action_is_recorded_once(admin, session):
    name = "light-" + "x" * 60
    add(session, name)
    for _ in range(2):
        answer = admin.post(f"{PAGE}/stop", data={"name": name}, follow_redirects=True)
        assert f"{name} stops when its jobs have ended." in answer.text
    assert " stopping " in row(answer.text, name)
    assert "Stop this worker?" not in row(answer.text, name)
    assert heartbeat.beat(session, name) is heartbeat.Standing.STOP_REQUESTED
    query = sa.select(AuditEntry.subject_id, AuditEntry.details).where(AuditEntry.action == "worker.stop")
    ((subject, details),) = session.execute(query).all()
    assert (subject, details) == (name[:40], {"name": name, "host": "berta", "pid": 4711})
    assert admin.post(f"{PAGE}/stop", data={"name": "unknown"}).status_code == 404


def test_the_api_lists_and_stops_workers_and_lists_what_runs(client, session):
    call = caller(client, make_user(Role.ADMIN), API)
    add(session, "one")
    add(session, "clock", "scheduler", queues="")
    id = asked(session, "test.mark", number=1)
    asked(session, "test.mark", number=2)
    claim.claim(session, [id], "one")
    started_at = session.scalar(sa.select(JobRecord.started_at).where(JobRecord.id == id))
    job = {"id": id, "name": "test.mark", "queue": "bulk", "started_at": started_at.isoformat(), "worker": "one"}
    assert call("GET", "/api/v1/jobs/active").json == {"items": [job]}
    first, second = call("GET", API).json["items"]
    assert (first["name"], first["state"], first["jobs"]) == ("one", "running", [job])
    assert (second["name"], second["queues"], second["jobs"]) == ("clock", [], [])
    assert call("POST", f"{API}/one/stop").status_code == 204
    assert call("POST", f"{API}/clock/stop").status_code == 409
    assert call("POST", f"{API}/nothing/stop").status_code == 404
    assert call("GET", API).json["items"][0]["stop_requested_at"] is not None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_staff_see_what_runs_but_no_workers(client, session):
    call = caller(client, make_user(Role.STAFF), API)
    assert call("GET", API).status_code == 403
    assert call("GET", "/api/v1/jobs/active").json == {"items": []}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_commands_list_and_stop_workers(app, session):
    runner = app.test_cli_runner()
    assert "no process runs" in runner.invoke(args=["jobs", "workers"]).output
    add(session, "one", memory_bytes=123_000_000, jobs_done=4321)
    output = runner.invoke(args=["jobs", "workers"]).output
    assert "running" in output
    assert "123 MB      4,321     0  one" in output
    assert '"name": "one"' in runner.invoke(args=["jobs", "workers", "--json"]).output
    assert "one stops when its jobs have ended" in runner.invoke(args=["jobs", "stop-worker", "one"]).output
    assert "stopping" in runner.invoke(args=["jobs", "workers"]).output
    assert runner.invoke(args=["jobs", "stop-worker", "two"]).exit_code == 1
