"""/api/v1/batches, on both databases."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.audit import AuditEntry
from flask_belfry.changes import Actor, Subject, use_actor
from flask_belfry.outbox import JobState, batch, enqueue, enqueue_many
from flask_belfry.outbox.requests import JobRequest
from tests.job_records import state_of, working_with_sweeps
from tests.reservation_factories import caller, make_school, make_user

LIST = "/api/v1/batches"


@pytest.fixture
def admin(client):
    return caller(client, make_user(Role.ADMIN), LIST)


@pytest.fixture
def work(work, session):
    return working_with_sweeps(work, session)


def make_batch(session, **values) -> tuple[str, list[str]]:
    """A committed batch of three jobs, one of which fails."""
    with batch("sending", **values) as opened:
        ids = [enqueue("test.echo"), enqueue("test.echo"), enqueue("test.fail")]
    session.commit()
    return opened.id, ids


def test_a_batch_is_shown_with_the_number_of_its_jobs_in_each_state(admin, session, work):
    id, _ = make_batch(session, then="test.finish", subject=Subject("ticket", 7))
    shown = admin("GET", f"{LIST}/{id}").json
    assert (shown["name"], shown["state"], shown["jobs"]) == ("sending", "open", {"pending": 3})
    assert (shown["total"], shown["ended"], shown["subject"], shown["then"]) == (3, 0, "ticket/7", "test.finish")
    assert shown["then_job_id"] is shown["finished_at"] is None
    work()
    shown = admin("GET", f"{LIST}/{id}").json
    assert (shown["state"], shown["jobs"], shown["ended"]) == ("finished", {"completed": 2, "failed": 1}, 3)
    assert admin("GET", f"/api/v1/jobs/{shown['then_job_id']}").json["state"] == "completed"


def test_batches_are_listed_newest_first_with_few_statements(admin, session, statements):
    finished, _ = make_batch(session)
    assert admin("POST", f"{LIST}/{finished}/cancel").status_code == 200
    open_ids = sorted(make_batch(session)[0] for _ in range(5))
    statements.clear()
    first = admin("GET", f"{LIST}?limit=4").json
    assert len([each for each in statements if "job_records" in each or "job_batches" in each]) == 2
    second = admin("GET", f"{LIST}?limit=4&cursor={first['next_cursor']}").json
    assert [item["id"] for item in first["items"] + second["items"]] == [*open_ids[::-1], finished]
    assert [item["id"] for item in admin("GET", f"{LIST}?open=true").json["items"]] == open_ids[::-1]
    assert [item["id"] for item in admin("GET", f"{LIST}?open=false").json["items"]] == [finished]
    assert list(admin("GET", f"{LIST}?open=perhaps").json["errors"]) == ["open"]


def test_a_batch_is_cancelled_and_retried_and_both_actions_are_recorded(admin, session):
    id, ids = make_batch(session)
    assert admin("POST", f"{LIST}/{id}/cancel").json == {"cancelled": 3, "stopping": 0}
    answer = admin("POST", f"{LIST}/{id}/cancel")
    assert (answer.status_code, answer.json["message"]) == (409, f"batch {id} is finished already")
    assert admin("POST", f"{LIST}/{id}/retry", json={}).json == {"retried": 0}
    assert list(admin("POST", f"{LIST}/{id}/retry", json={"all": True}).json["errors"]) == ["all"]
    assert admin("POST", f"{LIST}/{id}/retry", json={"cancelled": True}).json == {"retried": 3}
    assert [state_of(session, each) for each in ids] == [JobState.PENDING] * 3
    actions = session.scalars(sa.select(AuditEntry.action).where(AuditEntry.subject_id == id)).all()
    assert sorted(actions) == ["batch.cancel", "batch.retry"]


def test_an_unknown_batch_is_not_found(admin):
    for path in (f"{LIST}/{UUID(int=7)}", f"{LIST}/7"):
        assert admin("GET", path).status_code == 404


def test_staff_see_and_change_the_batches_of_their_school_only(client, session):
    user = make_user(Role.STAFF)
    staff = caller(client, user, LIST)
    with use_actor(Actor(school_id=user.school_id)):
        own, _ = make_batch(session)
    with use_actor(Actor(school_id=make_school().id)):
        other, ids = make_batch(session)
    assert [item["id"] for item in staff("GET").json["items"]] == [own]
    assert staff("GET", f"{LIST}/{own}").json["jobs"] == {"pending": 3}
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry")):
        assert staff(method, f"{LIST}/{other}{path}", json={} if method == "POST" else None).status_code == 404
    assert state_of(session, ids[0]) is JobState.PENDING


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_cost_of_one_batch_does_not_depend_on_its_jobs(admin, session, statements):
    id, _ = make_batch(session)
    admin("GET", f"{LIST}/{id}")
    statements.clear()
    admin("GET", f"{LIST}/{id}")
    few = len(statements)
    with batch("many") as many:
        enqueue_many("test.touch", [JobRequest({"number": number}) for number in range(200)])
    session.commit()
    statements.clear()
    assert admin("GET", f"{LIST}/{many.id}").json["jobs"] == {"pending": 200}
    assert len(statements) == few
