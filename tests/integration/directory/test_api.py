"""/api/v1/schools, /classes and /students."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.accounts import Role, issue_personal_token
from app.schools import default_school
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from tests.reservation_factories import caller, make_user
from tests.school_factories import guardian, school_class, second_school, student

SCHOOLS, CLASSES, STUDENTS = (f"/api/v1/{name}" for name in ("schools", "classes", "students"))
sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
BODY = {"number": "S 1", "name": "Ada", "enrolled_on": "2025-08-01"}


@pytest.fixture
def staff(client):
    return caller(client, make_user(Role.STAFF), STUDENTS)


@pytest.fixture
def admin(client):
    return caller(client, make_user(Role.ADMIN), SCHOOLS)


def ids(answer) -> list[int]:
    return [item["id"] for item in answer.json["items"]]


# ── Schools ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_admin_creates_changes_disables_and_enables_a_school(admin):
    made = admin("POST", json={"name": "Westside", "slug": "westside"})
    assert (made.status_code, made.location) == (201, f"{SCHOOLS}/{made.json['id']}")
    one = made.location
    assert admin("GET", one).json == made.json
    changed = admin("PATCH", one, json={"name": "West", "time_zone": "Europe/Berlin"}).json
    assert (changed["name"], changed["slug"], changed["time_zone"]) == ("West", "westside", "Europe/Berlin")
    assert admin("POST", f"{one}/disable").json["is_disabled"] is True
    assert admin("POST", f"{one}/enable").json["is_disabled"] is False
    assert [item["name"] for item in admin("GET").json["items"]] == ["School", "West"]


@sqlite
def test_invalid_fields_of_a_school_are_named(admin):
    answer = admin("POST", json={"name": "x", "slug": "school", "time_zone": None})
    assert (answer.status_code, answer.json["errors"]) == (422, {"slug": ["already taken"]})
    answer = admin("POST", json={"name": "\t", "slug": "No", "time_zone": "Mars"})
    assert (answer.status_code, set(answer.json["errors"])) == (422, {"name", "slug", "time_zone"})


@sqlite
def test_an_admin_locks_no_admin_out(client, admin):
    default_id = default_school().id
    assert admin("POST", f"{SCHOOLS}/{default_id}/disable").status_code == 409
    own = second_school().id
    elsewhere = caller(client, make_user(Role.ADMIN, school_id=own), SCHOOLS)
    answer = elsewhere("POST", f"{SCHOOLS}/{own}/disable")
    assert (answer.status_code, "your own school" in answer.json["message"]) == (409, True)
    assert elsewhere("POST", f"{SCHOOLS}/{default_id}/disable").status_code == 409


@sqlite
def test_staff_see_their_own_school_and_change_none(staff):
    own, other = default_school().id, second_school().id
    assert ids(staff("GET", SCHOOLS)) == [own]
    assert staff("GET", f"{SCHOOLS}/{own}").status_code == 200
    assert staff("GET", f"{SCHOOLS}/{other}").status_code == 404
    for method, path, body in (
        ("POST", SCHOOLS, {"name": "x", "slug": "x"}),
        ("PATCH", f"{SCHOOLS}/{own}", {"name": "x"}),
        ("POST", f"{SCHOOLS}/{other}/disable", None),
        ("POST", f"{SCHOOLS}/{other}/enable", None),
    ):
        assert staff(method, path, json=body).status_code == 403, path


# ── Classes and students ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_class_is_created_renamed_and_deleted(staff):
    made = staff("POST", CLASSES, json={"name": "7b"})
    assert (made.status_code, made.location) == (201, f"{CLASSES}/{made.json['id']}")
    assert staff("POST", CLASSES, json={"name": "7b"}).json["errors"].keys() == {"name"}
    child = student(number="1", class_id=made.json["id"])
    assert staff("PATCH", made.location, json={"name": "8b"}).json["name"] == "8b"
    assert staff("DELETE", made.location).status_code == 409
    assert staff("PATCH", f"{STUDENTS}/{child.id}", json={"class_id": None}).json["class_id"] is None
    assert staff("DELETE", made.location).status_code == 204
    assert staff("GET", made.location).status_code == 404


def test_a_student_is_created_changed_and_deleted(staff):
    made = staff("POST", json=BODY)
    assert (made.status_code, made.location) == (201, f"{STUDENTS}/{made.json['id']}")
    assert made.json | BODY == made.json
    assert (made.json["class_id"], made.json["left_on"]) == (None, None)
    assert staff("PATCH", made.location, json={"left_on": "2026-08-01"}).json["left_on"] == "2026-08-01"
    refused = staff("PATCH", made.location, json={"left_on": "2025-08-01"})
    assert (refused.status_code, list(refused.json["errors"])) == (422, ["left_on"])
    assert staff("DELETE", made.location).status_code == 204
    assert staff("GET", made.location).status_code == 404


@sqlite
def test_a_change_of_what_was_not_seen_is_refused_and_a_repeated_post_runs_once(client):
    user = make_user(Role.STAFF)
    call = caller(client, user, STUDENTS)
    token, _ = issue_personal_token(user, "script", ["directory:write"])
    db.session.commit()
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "once"}
    first, again = (client.post(STUDENTS, json=BODY, headers=headers) for _ in range(2))
    assert (first.status_code, again.json) == (201, first.json)
    seen = {"Authorization": f"Bearer {token}", "If-Match": first.headers["ETag"]}
    assert call("PATCH", first.location, json={"name": "Changed"}).status_code == 200
    assert client.patch(first.location, json={"name": "Lost"}, headers=seen).status_code == 412


@sqlite
def test_a_token_needs_the_scope(client):
    user = make_user(Role.STAFF)
    reading, _ = issue_personal_token(user, "script", ["directory:read"])
    other, _ = issue_personal_token(user, "script", ["reservations:write"])
    db.session.commit()
    statuses = [
        (client.get(STUDENTS, headers=headers).status_code, client.post(STUDENTS, headers=headers).status_code)
        for headers in ({"Authorization": f"Bearer {token}"} for token in (reading, other))
    ]
    assert statuses == [(200, 403), (403, 403)]


def test_students_are_listed_by_name_in_pages_and_filtered(staff):
    today, of_school = utc_now().date(), school_class()
    ben, ada, eve = (student(of_school, name=name, number=name[0]) for name in ("Ben", "Ada", "Eve"))
    left = student(name="Zoe", number="Z%", enrolled_on=today - timedelta(days=9), left_on=today)
    first = staff("GET", f"{STUDENTS}?limit=3")
    assert ids(first) == [ada.id, ben.id, eve.id]
    assert ids(staff("GET", f"{STUDENTS}?limit=3&cursor={first.json['next_cursor']}")) == [left.id]
    assert ids(staff("GET", f"{STUDENTS}?class_id={of_school.id}&text=E")) == [ben.id, eve.id]
    assert ids(staff("GET", f"{STUDENTS}?text=z%25")) == [left.id]
    assert ids(staff("GET", f"{STUDENTS}?enrolled=false")) == [left.id]
    assert ids(staff("GET", f"{STUDENTS}?enrolled=true")) == [ada.id, ben.id, eve.id]
    assert staff("GET", f"{STUDENTS}?unknown=1").status_code == 422


def test_guardians_are_added_restricted_and_removed(staff):
    child, person = student(), make_user()
    listed = f"{STUDENTS}/{child.id}/guardians"
    made = staff("POST", listed, json={"user_id": person.id, "relation": "mother"})
    assert (made.status_code, made.location) == (201, f"{listed}/{made.json['id']}")
    assert (made.json["is_restricted"], made.json["restriction_reason"]) == (False, None)
    refused = staff("PATCH", made.location, json={"is_restricted": True})
    assert (refused.status_code, list(refused.json["errors"])) == (422, ["restriction_reason"])
    restricted = {"is_restricted": True, "restriction_reason": "Custody"}
    changed = staff("PATCH", made.location, json=restricted)
    assert changed.json | restricted == changed.json
    assert staff("GET", listed).json["items"] == [changed.json]
    assert staff("GET", made.location).json == changed.json
    assert staff("POST", listed, json={"user_id": person.id}).json["errors"].keys() == {"user_id"}
    assert staff("DELETE", made.location).status_code == 204
    assert staff("GET", listed).json["items"] == []


@sqlite
def test_a_guardian_is_found_below_its_own_student_only(staff):
    kept, other = guardian(student()), student()
    for method in ("GET", "PATCH", "DELETE"):
        body = {} if method == "PATCH" else None
        assert staff(method, f"{STUDENTS}/{other.id}/guardians/{kept.id}", json=body).status_code == 404


@sqlite
def test_an_admin_gives_a_student_of_another_school_a_class_and_a_guardian_of_that_school_only(admin):
    elsewhere = second_school().id
    child = student(school_id=elsewhere)
    theirs, ours = school_class(school_id=elsewhere), school_class()
    one = f"{STUDENTS}/{child.id}"
    assert admin("PATCH", one, json={"class_id": ours.id}).status_code == 422
    assert admin("PATCH", one, json={"class_id": theirs.id}).status_code == 200
    assert admin("POST", f"{one}/guardians", json={"user_id": make_user().id}).status_code == 422
    person = make_user(school_id=elsewhere)
    assert admin("POST", f"{one}/guardians", json={"user_id": person.id}).status_code == 201


@sqlite
def test_members_are_refused_also_as_guardians(client):
    person = make_user()
    kept = guardian(student(), person)
    member = caller(client, person, STUDENTS)
    for path in (SCHOOLS, CLASSES, STUDENTS, f"{STUDENTS}/{kept.student_id}"):
        assert member("GET", path).status_code == 403, path
