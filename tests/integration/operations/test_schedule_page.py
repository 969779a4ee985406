"""The page of the schedule: seen by staff, steered by admins, recorded in the audit log."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.audit import AuditEntry
from flask_belfry.operations.periodic import periodic_job
from flask_belfry.outbox import JobRecord, Schedule
from flask_belfry.outbox.models import TickOutcome
from flask_belfry.scheduler import ScheduleEntry, schedule
from tests.clocks import outcomes
from tests.reservation_factories import log_in, make_user

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PAGE = "/schedule"
# Its job has a docstring, and its time zone differs from the user's.
ENTRY = ScheduleEntry("night.prune", job="maintenance.prune", cron="17 3 * * *", zone="Asia/Tokyo")


@pytest.fixture(autouse=True)
def entries(app, session, clock) -> None:
    app.extensions["schedule"] = [ENTRY, ScheduleEntry("test.often", job="test.act", every=300)]
    schedule.reconcile(session, app.extensions["schedule"])


@pytest.fixture
def admin(client):
    user = make_user(Role.ADMIN)
    log_in(client, user)
    return user


def entries_of_audit(session):
    query = sa.select(AuditEntry.action, AuditEntry.subject_id, AuditEntry.user_id, AuditEntry.school_id)
    return [tuple(row) for row in session.execute(query.where(AuditEntry.subject_type == "schedule"))]


def test_staff_see_each_periodic_job_in_words_with_its_zone_and_times_and_cannot_change_it(client, session, clock):
    clock.move_to("2030-05-06T10:00:00+00:00")
    log_in(client, make_user(Role.STAFF, time_zone="Europe/Berlin"))
    page = client.get(PAGE).text
    for text in ("night.prune", "Deletes old data", "At 03:17", "(Asia/Tokyo)", "Every 5 minutes", "None recorded"):
        assert text in page
    # 03:17 in Tokyo is 18:17 UTC the day before, and 20:17 in Berlin.
    assert "Mon 6 May 2030, 20:17" in page
    assert set(re.findall(r"/schedule/[^\"]+", page)) == {"/schedule/live"}
    for action in ("pause", "resume", "run"):
        assert client.post(f"{PAGE}/{ENTRY.name}/{action}").status_code == 403
    assert entries_of_audit(session) == []


def test_customers_do_not_see_it(client):
    log_in(client, make_user())
    assert client.get(PAGE).status_code == 403


def test_an_admin_pauses_and_resumes_and_nothing_is_caught_up_on(client, session, clock, admin):
    assert client.post(f"{PAGE}/test.often/pause").status_code == 303
    session.expire_all()
    assert session.get(Schedule, "test.often").paused_at is not None
    page = client.get(f"{PAGE}?name=test.often").text
    assert "Paused" in page
    assert "/schedule/test.often/resume" in page
    assert "night.prune" not in page
    clock.shift(600)
    log_in(client, admin)  # the session ended meanwhile
    assert client.post(f"{PAGE}/test.often/resume").status_code == 303
    session.expire_all()
    assert session.get(Schedule, "test.often").paused_at is None
    assert outcomes(session) == [TickOutcome.PAUSED] * 2
    assert session.scalars(sa.select(JobRecord).where(JobRecord.subject_type == "schedule")).all() == []
    assert entries_of_audit(session) == [
        ("schedule.pause", "test.often", admin.id, None),
        ("schedule.resume", "test.often", admin.id, None),
    ]


def test_what_an_admin_runs_now_is_a_job_of_the_system_and_the_last_run(client, session, admin):
    assert client.post(f"{PAGE}/{ENTRY.name}/run").status_code == 303
    job = session.scalars(sa.select(JobRecord).where(JobRecord.subject_type == "schedule")).one()
    assert (job.name, job.subject_id, job.school_id, job.user_id) == ("maintenance.prune", ENTRY.name, None, admin.id)
    assert entries_of_audit(session) == [("schedule.run", ENTRY.name, admin.id, None)]
    assert periodic_job(ENTRY).last_job is job
    assert f'href="/jobs/{job.id}"' in client.get(PAGE).text
    # The job's page leads back to the schedule.
    assert f'href="/schedule?name={ENTRY.name}"' in client.get(f"/jobs/{job.id}").text
    assert client.post(f"{PAGE}/no-such/run").status_code == 404


def test_what_no_scheduler_knows_yet_can_be_paused_and_run(app, client, session, admin):
    app.extensions["schedule"].append(ScheduleEntry("test.new", job="maintenance.prune", every=60))
    for action in ("pause", "resume", "pause", "run"):
        assert client.post(f"{PAGE}/test.new/{action}").status_code == 303
    session.expire_all()
    assert session.get(Schedule, "test.new").paused_at is not None
    assert session.scalar(sa.select(JobRecord.name).where(JobRecord.subject_id == "test.new")) == "maintenance.prune"
