"""/api/v1/jobs/operations: previews, beginning, progress, stopping and undoing, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from werkzeug.test import TestResponse

from app.accounts import Role
from app.audit import AuditEntry
from flask_belfry.outbox import JobState
from tests.job_records import asked, delayed, state_of
from tests.reservation_factories import bearer, make_user

LIST = "/api/v1/jobs/operations"
NO_ID = "0193a2f0-0000-7000-8000-000000000000"
ONCE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def user(app):
    return make_user(Role.ADMIN)


@pytest.fixture
def admin(client, user):
    def request(method: str, path: str = "", **options: Any) -> TestResponse:
        return client.open(f"{LIST}{path}", method=method, headers=bearer(user), **options)

    return request


def test_an_operation_is_previewed_begun_shown_and_undone(admin, session, work, user):
    ids = [delayed(session) for _ in range(3)]
    other = asked(session, "test.mark", number=1)
    selection = {"kind": "cancel", "q": "name:test.echo", "state": "scheduled"}
    preview = admin("GET", "/preview", query_string=selection).json
    assert (preview["jobs"], preview["is_capped"]) == (3, False)
    assert [job["id"] for job in preview["newest"]] == ids[::-1]
    answer = admin("POST", json={**selection, "per_second": 1000})
    begun = answer.json
    assert (answer.status_code, begun["state"], begun["jobs"], begun["done"]) == (202, "running", 3, 0)
    assert (begun["query"], begun["per_second"]) == ("name:test.echo state:scheduled", 1000)
    assert admin("POST", f"/{begun['id']}/undo").status_code == 409
    work()
    shown = admin("GET", f"/{begun['id']}").json
    assert (shown["state"], shown["done"], shown["changed"], shown["can_undo"]) == ("finished", 3, 3, True)
    assert (shown["live"], shown["ended"], shown["user_id"]) == (0, 3, user.id)
    assert admin("POST", f"/{begun['id']}/stop").status_code == 409
    undone = admin("POST", f"/{begun['id']}/undo")
    assert (undone.status_code, undone.json["kind"], undone.json["undo_of_id"]) == (202, "retry", begun["id"])
    work()
    assert {state_of(session, id) for id in [*ids, other]} == {JobState.COMPLETED}
    assert [row["id"] for row in admin("GET").json["items"]] == [undone.json["id"], begun["id"]]
    assert admin("GET", f"/{begun['id']}").json["can_undo"] is False
    actions = session.scalars(sa.select(AuditEntry.action).where(AuditEntry.action.startswith("bulk."))).all()
    assert sorted(actions) == ["bulk.cancel", "bulk.undo"]


@ONCE
def test_selected_jobs_are_retried_first_a_canary_and_an_operation_is_stopped(admin, session, work):
    ids = [asked(session, "test.fail") for _ in range(3)]
    work()
    body = {"kind": "retry", "ids": ids[1:], "canary": 1, "per_second": 5.0}
    preview = admin("GET", "/preview", query_string={"kind": "retry", "ids": ids[1:]}).json
    assert [job["id"] for job in preview["newest"]] == ids[:0:-1]
    begun = admin("POST", json=body).json
    assert (begun["query"], begun["jobs"], begun["canary"], begun["per_second"]) == ("2 selected jobs", 2, 1, 5.0)
    stopped = admin("POST", f"/{begun['id']}/stop").json
    assert (stopped["state"], stopped["changed"]) == ("cancelled", 0)
    assert stopped["finished_at"] is not None
    work()
    assert {state_of(session, id) for id in ids} == {JobState.FAILED}
    assert session.scalars(sa.select(AuditEntry.action).where(AuditEntry.action == "bulk.stop")).all() == ["bulk.stop"]


@ONCE
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"q": "name:test.*"}, "kind"),
        ({"kind": "delete", "q": "name:test.*"}, "kind"),
        ({"kind": "cancel"}, "_schema"),
        ({"kind": "cancel", "per_second": 5}, "_schema"),
        ({"kind": "cancel", "ids": [NO_ID], "name": "test.echo"}, "_schema"),
        ({"kind": "cancel", "ids": []}, "ids"),
        ({"kind": "cancel", "ids": [NO_ID] * 101}, "ids"),
        ({"kind": "cancel", "ids": ["7"]}, "ids.0"),
        ({"kind": "cancel", "q": " "}, "q"),
        ({"kind": "cancel", "q": "color:red"}, "q"),
        ({"kind": "cancel", "q": "name:test.*", "canary": 5}, "canary"),
        ({"kind": "retry", "q": "name:test.*", "canary": 101}, "canary"),
        ({"kind": "retry", "q": "name:test.*", "canary": "5"}, "canary"),
        ({"kind": "cancel", "q": "name:test.*", "per_second": 0}, "per_second"),
        ({"kind": "cancel", "q": "name:test.*", "cursor": "7"}, "cursor"),
    ],
)
def test_what_is_invalid_begins_no_operation(admin, session, body, field):
    asked(session, "test.echo")
    answer = admin("POST", json=body)
    assert (answer.status_code, list(answer.json["errors"])) == (422, [field])
    assert admin("GET").json["items"] == []


@ONCE
def test_an_operation_that_would_change_no_job_is_refused(admin, session):
    asked(session, "test.echo")
    answer = admin("POST", json={"kind": "retry", "name": "test.echo"})
    assert (answer.status_code, answer.json["message"]) == (422, "No job can be retried.")
    preview = admin("GET", "/preview", query_string={"kind": "retry", "name": "test.echo"}).json
    assert preview == {"jobs": 0, "is_capped": False, "newest": []}
    for method, path in (("GET", ""), ("POST", "/stop"), ("POST", "/undo")):
        assert admin(method, f"/{NO_ID}{path}").status_code == 404
