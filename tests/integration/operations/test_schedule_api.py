"""/api/v1/jobs/schedule: periodic jobs of the code and of users, on both databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from app.accounts import Role, issue_personal_token
from flask_belfry.operations import custom_schedules
from flask_belfry.outbox import CustomSchedule, JobRecord
from tests.reservation_factories import bearer, caller, make_school, make_user

PATH = "/api/v1/jobs/schedule"
ONE = f"{PATH}/custom.nightly"
NEW = {"name": "nightly", "job": "test.act", "args": {"ticket_id": 7}, "cron": "0 3 * * *", "zone": "Europe/Berlin"}
SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def admin(client):
    return caller(client, make_user(Role.ADMIN), PATH)


def test_a_schedule_is_created_read_changed_paused_resumed_run_and_deleted(client, session, clock):
    clock.move_to("2030-05-06T10:00:00+00:00")
    admin = caller(client, make_user(Role.ADMIN, name="Ada"), PATH)
    school = make_school()
    answer = admin("POST", json={**NEW, "school": school.id})
    assert answer.status_code == 200, answer.text
    assert answer.json == {
        "name": "custom.nightly",
        "job": "test.act",
        "args": {"ticket_id": 7},
        "description": "at 03:00 every day",
        "expression": "cron 0 3 * * *",
        "cron": "0 3 * * *",
        "every_seconds": None,
        "zone": "Europe/Berlin",
        "state": "active",
        "is_custom": True,
        "version": answer.json["version"],
        "owner": "Ada",
        "school": school.id,
        "problem": None,
        "last_run_at": None,
        "last_runs": [],
        "next_runs": [f"2030-05-{day:02}T01:00:00+00:00" for day in range(7, 12)],
    }
    assert admin("GET", ONE).json == answer.json
    listed = {item["name"]: item for item in admin("GET").json["items"]}
    assert listed["custom.nightly"] == answer.json
    assert listed["maintenance.prune"]["is_custom"] is False
    changed = admin("PATCH", ONE, json={"every_seconds": 600, "args": {"ticket_id": 8}}).json
    assert (changed["cron"], changed["every_seconds"], changed["args"]) == (None, 600, {"ticket_id": 8})
    assert (changed["school"], changed["zone"]) == (school.id, "Europe/Berlin")
    assert admin("POST", f"{ONE}/pause").json["state"] == "paused"
    assert admin("POST", f"{ONE}/resume").json["state"] == "active"
    job_id = admin("POST", f"{ONE}/run").json["job_id"]
    record = session.get_one(JobRecord, job_id)
    assert (record.args, record.school_id) == ({"ticket_id": 8}, school.id)
    session.rollback()
    assert admin("DELETE", ONE).status_code == 204
    assert admin("GET", ONE).status_code == 404


@SQLITE
@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": "Nightly!"}, "name"),
        ({"name": "x" * 34}, "name"),
        ({"job": "no.such"}, "job"),
        ({"job": "mail.deliver"}, "job"),
        ({"args": {"ticket_id": "7"}}, "args.ticket_id"),
        ({"args": {"ticket_id": {"a": 1}}}, "args.ticket_id"),
        ({"args": {"x": 1}}, "args.x"),
        ({"args": [7]}, "args"),
        ({"cron": "tomorrow"}, "cron"),
        ({"cron": "0 3 * * *" + " " * 100}, "cron"),
        ({"cron": None}, "cron"),
        ({"every_seconds": 60}, "cron"),
        ({"cron": None, "every_seconds": 9}, "every_seconds"),
        ({"zone": "Mars/Base"}, "zone"),
        ({"school": 999_999}, "school"),
        ({"color": "red"}, "color"),
    ],
)
def test_an_invalid_value_is_refused_with_the_name_of_the_field(admin, session, values, field):
    answer = admin("POST", json={**NEW, **values})
    assert (answer.status_code, list(answer.json["errors"])) == (422, [field])
    assert session.scalars(sa.select(CustomSchedule)).all() == []
    assert admin("POST", json=NEW).status_code == 200
    if "name" not in values and field != "cron":
        assert admin("PATCH", ONE, json=values).status_code == 422


@SQLITE
def test_the_name_of_the_code_and_unknown_ones_are_not_found(admin):
    for name in ("maintenance.prune", "custom.nope", "a%00b", "%ed%a0%80", "x" * 300):
        assert admin("PATCH", f"{PATH}/{name}", json={"every_seconds": 60}).status_code == 404
        assert admin("DELETE", f"{PATH}/{name}").status_code == 404
    assert admin("GET", f"{PATH}/maintenance.prune").json["cron"] == "17 3 * * *"
    assert admin("GET", f"{PATH}/reservations.sweep_overdue").json["every_seconds"] == 300
    for verb in ("pause", "resume"):
        assert admin("POST", f"{PATH}/maintenance.prune/{verb}").status_code == 200


@SQLITE
def test_a_name_is_taken_once_and_their_number_is_bounded(admin, monkeypatch):
    assert admin("POST", json=NEW).status_code == 200
    assert list(admin("POST", json=NEW).json["errors"]) == ["name"]
    monkeypatch.setattr(custom_schedules, "MAX_SCHEDULES", 1)
    assert admin("POST", json={**NEW, "name": "another"}).status_code == 409


@SQLITE
def test_a_repeated_request_with_one_key_creates_one(client, session):
    headers = {**bearer(make_user(Role.ADMIN)), "Idempotency-Key": "a-key-of-one-request"}
    first, second = (client.post(PATH, json=NEW, headers=headers) for _ in range(2))
    assert first.json == second.json
    assert (first.status_code, second.status_code) == (200, 200)
    assert len(session.scalars(sa.select(CustomSchedule)).all()) == 1


@SQLITE
def test_staff_see_those_of_their_school_and_change_none(client, admin):
    school = make_school()
    staff = caller(client, make_user(Role.STAFF, school_id=school.id), PATH)
    for name, school_id in (("ours", school.id), ("of-all", None)):
        assert admin("POST", json={**NEW, "name": name, "school": school_id}).status_code == 200
    names = {item["name"] for item in staff("GET").json["items"]}
    assert {"custom.ours", "maintenance.prune"} <= names
    assert "custom.of-all" not in names
    assert staff("GET", f"{PATH}/custom.ours").status_code == 200
    assert staff("GET", f"{PATH}/custom.of-all").status_code == 404
    for answer in (staff("POST", json=NEW), staff("DELETE", f"{PATH}/custom.ours")):
        assert (answer.status_code, answer.json["message"]) == (403, "Only admins can change the schedule.")


@SQLITE
def test_a_personal_token_needs_the_scope_of_jobs(client, session):
    user = make_user(Role.ADMIN)
    secret, _ = issue_personal_token(user, "reads", ["jobs:read"])
    session.commit()
    headers = {"Authorization": f"Bearer {secret}"}
    assert client.get(PATH, headers=headers).status_code == 200
    assert client.post(PATH, json=NEW, headers=headers).status_code == 403


def test_a_version_that_was_read_before_another_change_is_refused(client, session, admin):
    version = admin("POST", json=NEW).json["version"]
    assert admin("POST", f"{ONE}/run").status_code == 200
    assert admin("GET", ONE).json["version"] == version  # a run changes nothing
    listed = {item["name"]: item["version"] for item in admin("GET").json["items"]}
    assert (listed["custom.nightly"], listed["maintenance.prune"]) == (version, None)
    if_match = {"If-Match": f'"{version}"'}
    changed = admin("PATCH", ONE, json={"args": {"ticket_id": 8}}, headers=if_match)
    assert (changed.status_code, changed.json["args"]) == (200, {"ticket_id": 8})
    assert changed.json["version"] != version
    for method, body in (("PATCH", {"json": {"cron": "0 4 * * *"}}), ("DELETE", {})):
        stale = admin(method, ONE, headers=if_match, **body)
        assert (stale.status_code, stale.json["message"].partition(":")[0]) == (
            412,
            "The schedule has changed since you read it",
        )
    assert admin("GET", ONE).json["cron"] == "0 3 * * *"
    assert admin("PATCH", ONE, json={"cron": "0 4 * * *"}, headers={"If-Match": "*"}).status_code == 200
    current = admin("GET", ONE).json["version"]
    assert admin("DELETE", ONE, headers={"If-Match": f'"{current}"'}).status_code == 204
