"""The form with which a user enqueues a job."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.audit import AuditEntry
from flask_belfry.outbox import JobRecord
from tests.reservation_factories import log_in, make_school, make_user

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

PAGE = "/jobs/enqueue"


@pytest.fixture
def admin(client):
    return log_in(client, make_user(Role.ADMIN))


def test_all_jobs_are_offered_each_with_its_docstring_and_arguments(admin):
    assert {"test.tell", "operations.run_bulk", "mail.deliver"} <= set(
        re.findall(r'<option value="([^"]+)"', admin.get(PAGE).text)
    )
    page = admin.get(f"{PAGE}?job=test.tell").text
    assert "Return its argument." in page
    assert re.findall(r'name="(arg_[a-z_]+)"', page) == ["arg_ticket_id", "arg_old", "arg_new"]
    assert "arg_email_id" in admin.get(f"{PAGE}?job=mail.deliver").text  # of a chunk


def test_a_job_is_enqueued_for_a_school_and_audited(admin, session):
    school = make_school()
    session.commit()
    form = {"job": "test.tell", "arg_ticket_id": "7", "arg_old": "a", "arg_new": "b", "school": str(school.id)}
    answer = admin.post(PAGE, data=form)
    record = session.scalars(sa.select(JobRecord)).one()
    assert answer.location == f"/jobs/{record.id}"
    assert (record.name, record.args) == ("test.tell", {"ticket_id": 7, "old": "a", "new": "b"})
    assert (record.school_id, record.user_id is not None) == (school.id, True)
    entry = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "job.enqueue")).one()
    assert (entry.subject_id, entry.school_id, dict(entry.details)) == (record.id, school.id, {"name": "test.tell"})


def test_errors_are_shown_beside_the_arguments(admin, session):
    form = {"job": "test.tell", "arg_ticket_id": "seven", "arg_old": "a"}
    answer = admin.post(PAGE, data=form)
    assert answer.status_code == 422
    assert 'id="field-arg_ticket_id-errors">Must be an integer.' in answer.text
    assert 'id="field-arg_new-errors">This field is required.' in answer.text
    assert 'value="seven"' in answer.text
    assert admin.post(PAGE, data={"job": "unknown"}).status_code == 422
    assert session.scalars(sa.select(JobRecord)).all() == []


def test_only_admins_enqueue(client, session):
    staff = log_in(client, make_user(Role.STAFF))
    assert staff.get(PAGE).status_code == 403
    assert staff.post(PAGE, data={"job": "test.echo"}).status_code == 403
    assert "Enqueue a job" not in staff.get("/jobs/").text
    assert session.scalars(sa.select(JobRecord)).all() == []
