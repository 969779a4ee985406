"""/api/v1/jobs: the list, one job, retry and cancel, on both databases."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from app.accounts import Role, issue_personal_token
from app.audit import AuditEntry
from flask_belfry.changes import Subject
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.operations import bulk
from flask_belfry.outbox import JobRecord, JobState, batch, enqueue, job
from flask_belfry.outbox.registry import forget
from flask_belfry.search import running
from tests.job_records import asked, delayed, read, state_of
from tests.reservation_factories import bearer, make_school, make_user

LIST = "/api/v1/jobs"


class Caller:
    """A client with the token of a user."""

    def __init__(self, client, user) -> None:
        self.client, self.user, self.headers = client, user, bearer(user)

    def __call__(self, method: str, path: str = LIST, headers=None, **options):
        return self.client.open(path, method=method, headers={**self.headers, **(headers or {})}, **options)


@pytest.fixture
def admin(client):
    return Caller(client, make_user(Role.ADMIN))


@pytest.fixture
def staff(client):
    return Caller(client, make_user(Role.STAFF))


def ids_of(answer) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json["items"]]


def test_jobs_are_listed_newest_first_in_pages(admin, session):
    ids = sorted(asked(session, "test.echo") for _ in range(5))
    first = admin("GET", f"{LIST}?limit=3").json
    second = admin("GET", f"{LIST}?limit=3&cursor={first['next_cursor']}").json
    assert [item["id"] for item in first["items"] + second["items"]] == ids[::-1]
    assert second["next_cursor"] is None


def test_every_filter_selects_its_jobs(admin, session):
    with batch("a batch") as opened:
        wanted = enqueue("test.echo", subject=Subject("ticket", 7))
    other = asked(session, "test.mark", number=1)
    session.commit()
    assert sorted(ids_of(admin("GET", query_string={"state": "pending"}))) == sorted([wanted, other])
    filters = {"name": "test.echo", "queue": "default", "subject": "ticket/7", "text": wanted, "batch": opened.id}
    for name, value in [*filters.items(), ("subject", "ticket")]:
        assert ids_of(admin("GET", query_string={name: value})) == [wanted], name
    assert ids_of(admin("GET", query_string={**filters, "state": "completed"})) == []
    later = (utc_now() + timedelta(hours=1)).isoformat()
    assert ids_of(admin("GET", query_string={"since": later})) == []


def test_a_search_selects_jobs_beside_the_filters(admin, session):
    wanted, other = asked(session, "test.echo"), asked(session, "test.mark", number=42)
    for query, found in (("name:test.*", [other, wanted]), ("args.number:42", [other]), ("-args.number:42", [wanted])):
        assert ids_of(admin("GET", query_string={"q": query})) == found
    assert ids_of(admin("GET", query_string={"q": "args.number:42", "state": "pending"})) == [other]
    assert ids_of(admin("GET", query_string={"q": "args.number:42", "name": "test.echo"})) == []
    assert admin("GET", query_string={"q": "name:test.*"}).json["searched_to"] is None


def test_a_search_is_continued_where_it_stopped(admin, session, monkeypatch):
    monkeypatch.setattr(running, "WINDOW", 2)
    wanted, *_ = [asked(session, "test.mark", number=number) for number in range(3)]
    first = admin("GET", query_string={"q": "args.number:0"}).json
    assert first["items"] == []
    assert datetime.fromisoformat(first["searched_to"]) <= utc_now()
    second = admin("GET", query_string={"q": "args.number:0", "cursor": first["next_cursor"]})
    assert ids_of(second) == [wanted]
    assert (second.json["searched_to"], second.json["next_cursor"]) == (None, None)


def test_a_search_chooses_the_jobs_of_an_action(admin, session):
    wanted, other = asked(session, "test.mark", number=1), asked(session, "test.mark", number=2)
    answer = admin("POST", f"{LIST}/cancel", json={"q": "name:test.* -args.number:2"}).json
    assert answer == {"cancelled": 1, "stopping": 0, "operation_id": None}
    assert admin("POST", f"{LIST}/retry", json={"q": "args.number:1"}).json["retried"] == 0
    assert admin("POST", f"{LIST}/retry", json={"q": "state:cancelled,completed args.number:1"}).json["retried"] == 1
    assert [state_of(session, id) for id in (wanted, other)] == [JobState.PENDING, JobState.PENDING]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("q=state:lost", "q"),
        ("q=color:red", "q"),
        ("q=%00", "q"),
        ("q=state:failed&state=failed", "q"),
        ("state=lost", "state"),
        ("queue=lost", "queue"),
        ("since=yesterday", "since"),
        ("batch=7", "batch"),
        ("name=%00", "name"),
        ("subject=", "subject"),
        ("text=%00", "text"),
        ("limit=101", "limit"),
        ("cursor=nonsense", "cursor"),
        ("color=red", "color"),
    ],
)
def test_an_invalid_filter_is_named(admin, query, field):
    answer = admin("GET", f"{LIST}?{query}")
    assert (answer.status_code, list(answer.json["errors"])) == (422, [field])


def test_the_number_of_statements_of_the_list_does_not_depend_on_its_length(admin, session, statements):
    def count() -> int:
        session.expunge_all()
        statements.clear()
        admin("GET", f"{LIST}?limit=100")
        return len(statements)

    asked(session, "test.echo")
    admin("GET")  # once a minute it is recorded that the token was used
    one = count()
    for _ in range(20):
        asked(session, "test.limited", key="k")
    assert count() == one


@pytest.fixture
def secret_job():
    @job("a.secret_job", secrets=("token",))
    def secret_job(session, token: str, rows: int) -> None:
        """Does nothing."""

    yield secret_job.name
    forget(secret_job.name)


def test_a_job_is_shown_with_its_attempts_and_without_its_secrets(admin, session, work, secret_job):
    id = asked(session, secret_job, token="s3cr3t-value", rows=3)
    shown = admin("GET", f"{LIST}/{id}").json
    assert (shown["state"], shown["args"], shown["result"]) == ("pending", {"token": "[secret]", "rows": 3}, None)
    failing = asked(session, "test.fail")
    work()
    shown = admin("GET", f"{LIST}/{failing}").json
    assert (shown["state"], shown["error_type"], shown["error"]) == ("failed", "ValueError", "as it was asked to")
    (attempt,) = shown["attempts"]
    assert (attempt["number"], attempt["outcome"], attempt["error_type"]) == (1, "failed", "ValueError")
    assert "s3cr3t-value" not in json.dumps(admin("GET").json)


def test_a_successor_and_its_predecessor_lead_to_each_other_and_the_reason_is_in_words(admin, session):
    first = enqueue("test.echo", value=1)
    second = enqueue("test.echo", after=first)
    session.commit()
    shown = admin("GET", f"{LIST}/{second}").json
    assert (shown["state"], shown["blocked_by"], shown["after_id"]) == ("blocked", "predecessor", first)
    assert shown["waiting_reason"] == f"Waits until {first} is completed."
    assert shown["after"] == {"id": first, "kind": "job", "name": "test.echo"}
    shown = admin("GET", f"{LIST}/{first}").json
    assert shown["successors"] == [{"id": second, "name": "test.echo", "state": "blocked"}]
    assert (shown["waiting_reason"], shown["after"]) == (None, None)
    with batch("a batch") as opened:
        enqueue("test.echo")
    third = asked(session, "test.echo", after=opened.id)
    assert admin("GET", f"{LIST}/{third}").json["after"] == {"id": opened.id, "kind": "batch", "name": "a batch"}
    session.execute(sa.delete(JobRecord).where(JobRecord.id == first))
    session.commit()
    assert admin("GET", f"{LIST}/{second}").json["after"] == {"id": first, "kind": None, "name": None}


def test_progress_and_log_lines_are_shown(admin, session, work):
    id = asked(session, "test.log_on", seconds=0.0)
    work()
    shown = admin("GET", f"{LIST}/{id}").json
    assert shown["progress"] == {"done": 1, "total": None, "text": None}
    (log,) = shown["logs"]
    assert (log["claim"], log["attempt"], log["dropped"]) == (1, 1, 0)
    assert [(line["level"], line["event"]) for line in log["lines"]] == [("info", "logged")]


def test_a_failed_job_is_retried_and_a_completed_one_is_not(admin, session, work):
    failed, completed = asked(session, "test.fail"), asked(session, "test.echo")
    work()
    answer = admin("POST", f"{LIST}/{failed}/retry")
    assert (answer.status_code, answer.json["id"], answer.json["state"]) == (200, failed, "pending")
    answer = admin("POST", f"{LIST}/{completed}/retry")
    assert (answer.status_code, answer.json["message"]) == (
        409,
        "Only failed and cancelled jobs can be retried, and only after a completed predecessor.",
    )
    work()
    assert read(session, failed).attempt == 1
    assert actions(session) == [("job.retry", failed, admin.user.id)]


def test_a_waiting_job_is_cancelled_and_a_finished_one_is_not(admin, session):
    id = asked(session, "test.echo")
    answer = admin("POST", f"{LIST}/{id}/cancel")
    assert (answer.status_code, answer.json["state"], answer.json["finished_at"] is None) == (200, "cancelled", False)
    answer = admin("POST", f"{LIST}/{id}/cancel")
    assert (answer.status_code, answer.json["message"]) == (409, "The job has already finished.")
    assert actions(session) == [("job.cancel", id, admin.user.id)]


def test_a_running_job_is_requested_to_stop(admin, session):
    id = asked(session, "test.echo")
    session.execute(sa.update(JobRecord).values(state=JobState.RUNNING, claims=1, worker="w", started_at=utc_now()))
    session.commit()
    answer = admin("POST", f"{LIST}/{id}/cancel")
    assert (answer.json["state"], answer.json["cancel_requested"]) == ("running", True)
    # It has been requested: cancelling all of its name does not request it again.
    answer = admin("POST", f"{LIST}/cancel", json={"name": "test.echo"})
    assert answer.json == {"cancelled": 0, "stopping": 0, "operation_id": None}


def test_a_scheduled_job_is_run_now_and_another_is_not(admin, session, work):
    id = enqueue("test.echo", delay=3600)
    session.commit()
    answer = admin("POST", f"{LIST}/{id}/run")
    assert (answer.status_code, answer.json["state"], answer.json["scheduled_at"]) == (200, "pending", None)
    assert answer.json["parent_id"] is None
    work()
    assert state_of(session, id) is JobState.COMPLETED
    assert admin("POST", f"{LIST}/{id}/run").status_code == 409
    assert session.scalars(sa.select(AuditEntry.action).where(AuditEntry.subject_id == id)).all() == ["job.run"]


def test_all_jobs_that_match_a_filter_are_cancelled_and_retried(admin, session):
    ids = sorted(asked(session, "test.echo") for _ in range(3))
    other = asked(session, "test.mark", number=1)
    cancel = {"name": "test.echo", "state": "pending"}
    answer = admin("POST", f"{LIST}/cancel", json=cancel)
    assert (answer.status_code, answer.json) == (200, {"cancelled": 3, "stopping": 0, "operation_id": None})
    assert {state_of(session, id) for id in ids} == {JobState.CANCELLED}
    assert admin("POST", f"{LIST}/retry", json={"name": "test.echo"}).json == {"retried": 0, "operation_id": None}
    retry = {"name": "test.echo", "state": "cancelled"}
    assert admin("POST", f"{LIST}/retry", json=retry).json == {"retried": 3, "operation_id": None}
    assert {state_of(session, id) for id in [*ids, other]} == {JobState.PENDING}


def test_many_jobs_that_match_a_filter_are_changed_by_an_operation(admin, session, work, monkeypatch):
    monkeypatch.setattr(bulk, "MAX_TOGETHER", 2)
    ids = [delayed(session) for _ in range(3)]
    answer = admin("POST", f"{LIST}/cancel", json={"name": "test.echo"})
    operation_id = answer.json["operation_id"]
    assert (answer.status_code, answer.json) == (202, {"cancelled": 0, "stopping": 0, "operation_id": operation_id})
    assert {state_of(session, id) for id in ids} == {JobState.SCHEDULED}, "the request changes none of them"
    work()
    assert {state_of(session, id) for id in ids} == {JobState.CANCELLED}
    begun = admin("GET", f"{LIST}/operations/{operation_id}").json
    assert (begun["kind"], begun["query"], begun["state"]) == ("cancel", "name:test.echo", "finished")
    assert (begun["jobs"], begun["changed"], begun["user_id"]) == (3, 3, admin.user.id)
    answer = admin("POST", f"{LIST}/retry", json={"state": "cancelled", "q": "name:test.*"})
    assert (answer.status_code, answer.json["retried"]) == (202, 0)
    work()
    assert {state_of(session, id) for id in ids} == {JobState.COMPLETED}


def test_a_search_through_many_jobs_that_finds_none_begins_no_operation(admin, session, monkeypatch):
    monkeypatch.setattr(running, "WINDOW", 1)
    for _ in range(3):
        asked(session, "test.echo")
    answer = admin("POST", f"{LIST}/cancel", json={"q": "args.number:0"})
    assert (answer.status_code, answer.json) == (200, {"cancelled": 0, "stopping": 0, "operation_id": None})
    assert admin("GET", f"{LIST}/operations").json["items"] == []


@pytest.mark.parametrize(
    ("action", "body", "field"),
    [
        ("retry", {}, "_schema"),
        ("cancel", {}, "_schema"),
        ("retry", {"state": "running"}, "state"),
        ("cancel", {"state": "failed"}, "state"),
        ("retry", {"color": "red"}, "color"),
        ("cancel", {"queue": "lost"}, "queue"),
        ("cancel", {"q": "color:red"}, "q"),
        ("cancel", {"q": " "}, "q"),
        ("retry", {"q": "state:running"}, "state"),
    ],
)
def test_a_filter_that_is_missing_or_invalid_changes_nothing(admin, session, action, body, field):
    id = asked(session, "test.echo")
    answer = admin("POST", f"{LIST}/{action}", json=body)
    assert (answer.status_code, list(answer.json["errors"])) == (422, [field])
    assert state_of(session, id) is JobState.PENDING


def test_a_repeated_request_with_a_key_has_no_further_effect(admin, session):
    ids = [asked(session, "test.echo") for _ in range(2)]
    key = {"Idempotency-Key": "once"}
    body = {"name": "test.echo"}
    first = admin("POST", f"{LIST}/cancel", json=body, headers=key)
    asked(session, "test.echo")
    second = admin("POST", f"{LIST}/cancel", json=body, headers=key)
    assert first.json == second.json == {"cancelled": 2, "stopping": 0, "operation_id": None}
    answer = admin("POST", f"{LIST}/{ids[0]}/retry", headers={"Idempotency-Key": "retry"})
    assert admin("POST", f"{LIST}/{ids[0]}/retry", headers={"Idempotency-Key": "retry"}).json == answer.json


def test_staff_see_and_change_the_jobs_of_their_school_only(staff, session):
    own = job_of(session, staff.user.school_id)
    other, system = job_of(session, make_school().id), job_of(session, None)
    assert ids_of(staff("GET")) == [own]
    for id in (other, system):
        for method, path in (("GET", ""), ("POST", "/retry"), ("POST", "/cancel")):
            answer = staff(method, f"{LIST}/{id}{path}")
            assert answer.status_code == 404
    assert staff("POST", f"{LIST}/cancel", json={"name": "test.echo"}).json["cancelled"] == 1
    assert [state_of(session, id) for id in (own, other, system)] == [
        JobState.CANCELLED,
        JobState.PENDING,
        JobState.PENDING,
    ]


def test_members_are_refused_before_their_request_is_read(client):
    member = Caller(client, make_user())
    for method, path in (("GET", "?color=red"), ("POST", "/retry"), ("GET", "/queues"), ("GET", "/pauses")):
        answer = member(method, f"{LIST}{path}")
        assert (answer.status_code, answer.json["message"]) == (403, "This is for staff and admins only.")


def test_a_personal_token_needs_the_scope_of_jobs(admin, session):
    id = asked(session, "test.echo")
    text, _ = issue_personal_token(admin.user, "reads jobs", ["jobs:read"])
    session.commit()
    headers = {"Authorization": f"Bearer {text}"}
    assert admin("GET", headers=headers).status_code == 200
    answer = admin("POST", f"{LIST}/{id}/cancel", headers=headers)
    assert (answer.status_code, answer.json["message"]) == (403, "This token lacks the scope jobs:write.")


def actions(session) -> list[tuple[str, str, int]]:
    session.rollback()
    query = sa.select(AuditEntry.action, AuditEntry.subject_id, AuditEntry.user_id)
    return [tuple(row) for row in session.execute(query.where(AuditEntry.subject_type == "job"))]


def job_of(session, school_id: int | None) -> str:
    id = asked(session, "test.echo")
    session.execute(sa.update(JobRecord).where(JobRecord.id == id).values(school_id=school_id))
    db.session.commit()
    return id
