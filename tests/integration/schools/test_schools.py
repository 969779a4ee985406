"""Schools: `flask schools …`, and what a disabled school means for its users and its schedules."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from app import schools
from app.accounts import Role, issue_pair, issue_personal_token, sessions
from app.schools import School, SchoolDisabledError, create_school, is_disabled
from app.work_items import WorkStatus
from flask_belfry.changes import Actor, StatusChange, use_actor
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.mail import EmailMessage
from flask_belfry.operations import custom_schedules
from flask_belfry.operations.custom_schedules import Draft
from flask_belfry.outbox import CustomSchedule
from flask_belfry.scheduler.custom import entry_of
from tests.reservation_factories import PASSWORD, log_in, make_school, make_user
from tests.work_item_factories import make_task

sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
REFUSED = SchoolDisabledError().message
ME = "/api/v1/me"


@pytest.fixture
def school(session) -> School:
    return make_school()


@pytest.fixture
def run(app):
    return lambda *words: app.test_cli_runner().invoke(args=["schools", *words])


def disable(session, school: School) -> None:
    schools.disable_school(school)
    session.commit()


def enable(session, school: School) -> None:
    schools.enable_school(school)
    session.commit()


# ── The commands ─────────────────────────────────────────────────────────────────────────────────────────────────


@sqlite
def test_schools_are_created_listed_renamed_disabled_and_enabled_by_commands(run, session):
    made = run("create", "Westside  School", "--slug", "westside", "--time-zone", "Europe/Berlin")
    assert (made.exit_code, made.output) == (0, "school 2: westside, Westside School, created\n")
    assert run("rename", "westside", "Westside").output == "school 2: westside, Westside, renamed\n"
    assert run("disable", "westside").exit_code == 0
    assert is_disabled(2)
    listed = json.loads(run("list", "--json").output)
    assert [(each["slug"], each["time_zone"], each["is_disabled"]) for each in listed] == [
        ("school", None, False),
        ("westside", "Europe/Berlin", True),
    ]
    assert "disabled  westside" in run("list").output
    assert run("enable", "westside").exit_code == 0
    assert not is_disabled(2)
    fields = session.scalars(sa.select(StatusChange.field).where(StatusChange.subject_type == "school"))
    assert list(fields) == ["name", "disabled_at", "disabled_at"]


@sqlite
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("create", "x", "--slug", "No Slug"), "slug: must consist of lower-case letters, digits and single hyphens"),
        (("create", "x", "--slug", "school"), "slug: already taken"),
        (("create", "  ", "--slug", "x"), "name: must have 1 to 120 printable characters"),
        (("create", "x", "--slug", "x", "--time-zone", "Mars"), "time_zone: must be the name of a time zone"),
        (("rename", "nowhere", "x"), "There is no school 'nowhere'."),
        (("disable", "school"), "it stays enabled"),
    ],
)
def test_what_a_command_cannot_do_is_one_line(run, words, message):
    refused = run(*words)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert message in refused.stderr


def test_a_slug_that_another_transaction_takes_meanwhile_is_a_field_error(session, monkeypatch):
    make_school()
    taken = session.scalars(sa.select(School.slug).where(School.slug != "school")).one()
    answers = iter([None])
    check = schools.services._check_slug_is_free
    monkeypatch.setattr(schools.services, "_check_slug_is_free", lambda slug: next(answers, "again") and check(slug))
    with pytest.raises(InvalidInputError) as refused:
        create_school("Other", taken)
    assert refused.value.fields == {"slug": ["already taken"]}


# ── A disabled school ────────────────────────────────────────────────────────────────────────────────────────────


def test_users_of_a_disabled_school_cannot_log_in_and_see_why_only_with_the_password(client, session, school):
    user = make_user(school_id=school.id)
    disable(session, school)
    page = client.post("/login", data={"login": user.username, "password": PASSWORD})
    assert (page.status_code, REFUSED in page.text) == (422, True)
    assert REFUSED not in client.post("/login", data={"login": user.username, "password": "wrong password"}).text
    answer = client.post("/api/v1/auth/login", json={"username": user.username, "password": PASSWORD})
    assert (answer.status_code, answer.json["message"]) == (403, REFUSED)
    wrong = client.post("/api/v1/auth/login", json={"username": user.username, "password": "wrong password"})
    assert wrong.status_code == 401
    enable(session, school)
    log_in(client, user)


def test_sessions_and_tokens_of_a_disabled_school_stop_and_work_again_when_it_is_enabled(app, client, session, school):
    user = make_user(Role.STAFF, school_id=school.id)
    browser = log_in(client, user)
    with browser.session_transaction() as cookie:
        session_id = cookie["_user_id"]
    pair = issue_pair(user)
    script, _ = issue_personal_token(user, "script", ["read"])
    session.commit()
    api = app.test_client()
    tokens = [{"Authorization": f"Bearer {token}"} for token in (pair.access_token, script)]
    disable(session, school)
    assert browser.get("/reservations/").location.startswith("/login")
    assert sessions.find(session_id) is None  # nor is the user the actor of a public page
    for headers in tokens:
        answer = api.get(ME, headers=headers)
        assert (answer.status_code, answer.json["message"]) == (403, REFUSED)
    refreshed = api.post("/api/v1/auth/refresh", json={"refresh_token": pair.refresh_token})
    assert (refreshed.status_code, refreshed.json["message"]) == (403, REFUSED)
    enable(session, school)
    assert browser.get("/reservations/").status_code == 200
    assert [api.get(ME, headers=headers).status_code for headers in tokens] == [200, 200]
    assert api.post("/api/v1/auth/refresh", json={"refresh_token": pair.refresh_token}).status_code == 200


@sqlite
def test_users_of_other_schools_notice_nothing(client, session, school):
    user = make_user(Role.STAFF)
    log_in(client, user)
    disable(session, school)
    assert client.get("/reservations/").status_code == 200


@sqlite
def test_a_schedule_of_a_disabled_school_or_of_its_user_does_not_run(session, school):
    owner = make_user(Role.ADMIN, school_id=school.id)
    with use_actor(Actor(owner.id)):
        custom_schedules.create(Draft(name="of-user", job="test.act", every_seconds=60))
    custom_schedules.create(Draft(name="of-school", job="test.act", every_seconds=60, school_id=school.id))

    def problems() -> list[str | None]:
        return [entry_of(row).problem() for row in session.scalars(sa.select(CustomSchedule).order_by("name"))]

    assert problems() == [None, None]
    disable(session, school)
    of_school, of_user = problems()
    assert of_school == "Its school is disabled."
    assert of_user is not None
    enable(session, school)
    assert problems() == [None, None]


@sqlite
def test_work_items_mail_no_user_of_a_disabled_school(session, school):
    person = make_user(school_id=school.id)
    disable(session, school)
    task = make_task(responsible=person, reporter=person)
    task.status = WorkStatus.DONE
    session.commit()
    assert session.scalars(sa.select(EmailMessage)).all() == []


@sqlite
def test_users_without_a_time_zone_read_times_in_that_of_their_school(client, session, school):
    schools.change_school(school, {"time_zone": "Asia/Tehran"})
    session.commit()
    staff = make_user(Role.STAFF, school_id=school.id)
    assert "Time zone: Asia/Tehran." in log_in(client, staff).get("/reservations/new").text
    staff.time_zone = "Europe/Berlin"
    session.commit()
    assert "Time zone: Europe/Berlin." in client.get("/reservations/new").text
