"""The pages of bulk operations, on both databases."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.audit import AuditEntry
from flask_belfry.operations import BulkOperation, BulkState
from flask_belfry.outbox import JobRecord, JobState, enqueue
from tests.job_records import state_of
from tests.reservation_factories import log_in, make_user

LIST, NEW = "/jobs/operations", "/jobs/operations/new"


@pytest.fixture
def staff(client):
    return log_in(client, make_user(Role.ADMIN))


@pytest.fixture
def failed(session, work) -> list[str]:
    """Three jobs that failed."""
    ids = [enqueue("test.fail") for _ in range(3)]
    session.commit()
    work()
    return sorted(ids)


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_jobs_are_selected_in_the_list_shown_and_retried(staff, session, work, failed):
    page = staff.get("/jobs/?state=failed").text
    assert re.findall(r'form="select-jobs" name="id" value="([^"]+)"', page) == failed[::-1]
    assert f'href="{NEW}?state=failed&amp;kind=retry"' in page
    preview = staff.get(NEW, query_string={"kind": "retry", "id": failed[:2]}).text
    assert "Retry 2 jobs" in words(preview)
    assert re.findall(r'href="/jobs/([0-9a-f-]{36})"', preview) == failed[1::-1]
    answer = staff.post(NEW, data={"kind": "retry", "query": "what a client sends", "id": failed[:2]})
    operation = session.scalars(sa.select(BulkOperation)).one()
    assert answer.location == f"{LIST}/{operation.id}"
    assert "running 0 of 2 jobs, 0 retried" in words(staff.get(answer.location).text)
    session.rollback()
    work()
    shown = words(staff.get(f"{answer.location}/live").text)
    assert "finished 2 of 2 jobs, 2 retried" in shown
    assert "Ended 2 Failed again 2 ValueError" in shown
    assert "2 selected jobs" in words(staff.get(LIST).text)
    entries = session.execute(sa.select(AuditEntry.action, AuditEntry.details)).all()
    found = [dict(entry.details) for entry in entries if entry.action == "bulk.retry"]
    assert found == [{"query": "2 selected jobs", "jobs": 2}]
    assert "job.retry" not in {entry.action for entry in entries}


def test_all_that_match_are_cancelled_and_that_is_undone(staff, session, work):
    ids = [enqueue("test.echo", delay=3600) for _ in range(2)]
    other = enqueue("test.greet", delay=3600, ticket_id=1)
    session.commit()
    preview = staff.get(f"{NEW}?kind=cancel&name=test.echo").text
    assert "Cancel 2 jobs" in words(preview)
    (query,) = re.findall(r'name="query" value="([^"]*)"', preview)
    url = staff.post(NEW, data={"kind": "cancel", "query": query}).location
    assert "Undo" not in words(staff.get(url).text)
    session.rollback()
    work()
    assert [state_of(session, id) for id in (*ids, other)] == [JobState.CANCELLED] * 2 + [JobState.SCHEDULED]
    assert "Undo" in words(staff.get(url).text)
    undo = staff.post(f"{url}/undo").location
    session.rollback()
    work()
    assert [state_of(session, id) for id in ids] == [JobState.COMPLETED] * 2
    assert "Undo: retry name:test.echo" in words(staff.get(undo).text)
    assert staff.post(f"{url}/undo").status_code == 409


def test_a_search_whose_newest_jobs_do_not_match_can_be_retried(staff, session, failed, monkeypatch):
    monkeypatch.setattr("flask_belfry.search.running.WINDOW", 1)
    session.execute(sa.update(JobRecord).where(JobRecord.id == failed[0]).values(error_message="refused"))
    session.commit()
    preview = words(staff.get(f"{NEW}?kind=retry&q=refused").text)
    assert "None of the newest jobs matches. Older ones have not been searched yet." in preview
    assert "Retry the jobs that match" in preview
    staff.post(NEW, data={"kind": "retry", "query": "refused"})
    assert session.scalars(sa.select(BulkOperation.total)).one() == 1


def test_a_running_operation_is_cancelled(staff, session, failed):
    url = staff.post(NEW, data={"kind": "retry", "query": "", "canary": "1"}).location
    assert "It stops before its next page" in words(staff.get(url).text)
    staff.post(f"{url}/cancel")
    stop = session.scalars(sa.select(AuditEntry.details).where(AuditEntry.action == "bulk.stop")).one()
    assert dict(stop) == {"query": "", "jobs": 3, "changed": 0}
    assert session.scalars(sa.select(BulkOperation.state)).one() is BulkState.CANCELLED
    assert staff.post(f"{url}/cancel").status_code == 409


def test_errors_are_shown_beside_their_fields(staff, session, failed):
    form = {"kind": "retry", "query": "name:test.fail", "canary": "x", "per_second": "5"}
    answer = staff.post(NEW, data=form)
    assert answer.status_code == 422
    assert "Must be a number." in answer.text
    assert 'value="name:test.fail"' in answer.text
    answer = staff.post(NEW, data={**form, "canary": "0"})
    assert (answer.status_code, "Must be from 1 to 100." in answer.text) == (422, True)
    answer = staff.post(NEW, data={**form, "canary": "", "query": "name:another"})
    assert (answer.status_code, "No job can be retried" in answer.text) == (422, True)
    assert session.scalars(sa.select(BulkOperation)).all() == []


def test_nothing_is_shown_before_the_first_operation(staff):
    assert "No bulk operations yet" in staff.get(LIST).text
    assert staff.get(f"{LIST}/{'0' * 8}-0000-7000-8000-{'0' * 12}").status_code == 404


def test_staff_of_a_school_see_and_begin_operations_of_their_school_only(client, session, failed):
    user = make_user(Role.STAFF)
    session.execute(sa.update(JobRecord).where(JobRecord.id == failed[0]).values(school_id=user.school_id))
    session.commit()
    log_in(admin := client.application.test_client(), make_user(Role.ADMIN))
    theirs = admin.post(NEW, data={"kind": "retry", "query": "name:test.fail"}).location
    staff = log_in(client, user)
    assert "Retry 1 job" in words(staff.get(f"{NEW}?kind=retry&name=test.fail").text)
    assert staff.get(theirs).status_code == 404
    assert staff.post(f"{theirs}/cancel").status_code == 404
    ours = staff.post(NEW, data={"kind": "retry", "query": "name:test.fail"}).location
    assert re.findall(r'id="operation-([^"]+)"', staff.get(LIST).text) == [ours.rpartition("/")[2]]
