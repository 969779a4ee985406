"""The form of schedules that users make: what is typed is kept, checked and shown as run times before it is saved."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.audit import AuditEntry
from flask_belfry.changes import Actor, use_actor
from flask_belfry.db.tenancy import Scope, use_scope
from flask_belfry.execution import job
from flask_belfry.operations import custom_schedules, periodic
from flask_belfry.operations.custom_schedules import Draft
from flask_belfry.outbox import CustomSchedule, JobRecord
from flask_belfry.outbox.registry import forget
from tests.forms import shown_in
from tests.reservation_factories import log_in, make_school, make_user

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
NEW, LINK = "/schedule/new", "/schedule/custom.nightly/edit"
FORM = {"job": "test.report", "name": "nightly", "arg_rows": "7", "when": "cron", "cron": "0 3 * * *", "zone": "UTC"}


@pytest.fixture(autouse=True)
def _jobs(app) -> Iterator[None]:
    def report(session, rows: int, factor: float = 1.5, is_full: bool = True, title: str | None = None) -> None:
        """Reports on rows."""

    job("test.report")(report)
    job("test.with_secret", secrets=("token",))(lambda session, token: None)
    yield
    forget("test.report")
    forget("test.with_secret")


@pytest.fixture
def admin(client):
    user = make_user(Role.ADMIN, time_zone="Europe/Berlin")
    log_in(client, user)
    return user


def stored(session) -> CustomSchedule | None:
    session.expire_all()
    return session.get(CustomSchedule, "custom.nightly")


def test_the_form_offers_jobs_and_then_the_fields_of_the_chosen_one(client, admin):
    choice = client.get(NEW).text
    assert '<option value="test.report">' in choice
    for refused in ("test.with_secret", "mail.deliver"):
        assert refused not in choice
    assert 'name="cron"' not in choice
    page = client.get(f"{NEW}?job=test.report").text
    assert shown_in(page) == {
        "csrf_token": shown_in(page)["csrf_token"],
        "job": "test.report",
        "name": "",
        "arg_rows": "",
        "arg_factor": "",
        "arg_is_full": "true",
        "arg_title": "",
        "when": "every",
        "cron": "",
        "zone": "Europe/Berlin",
        "count": "",
        "unit": "",
        "school": "",
    }
    for text in ("Reports on rows.", "Default: 1.5.", "Enter when it runs to see the next five runs."):
        assert text in page


def test_what_is_created_is_shown_with_its_owner_edited_and_deleted_and_each_is_audited(client, session, clock, admin):
    clock.move_to("2030-05-06T10:00:00+00:00")
    log_in(client, admin)
    school = make_school()
    response = client.post(NEW, data=FORM | {"arg_title": "Days", "school": school.id})
    assert (response.status_code, response.location) == (303, "/schedule?name=custom.nightly")
    row = stored(session)
    assert (row.job_name, row.cron, row.every_seconds, row.zone) == ("test.report", "0 3 * * *", None, "UTC")
    assert row.args == {"rows": 7, "title": "Days", "is_full": False}
    assert (row.user_id, row.school_id) == (admin.id, school.id)
    page = client.get("/schedule").text
    for text in ("custom.nightly", "rows=7", admin.name, school.name, "At 03:00 every day", "Tue 7 May 2030, 05:00"):
        assert text in page
    typed = shown_in(client.get(LINK).text)
    assert (typed["arg_rows"], typed["cron"], typed["arg_title"]) == ("7", "0 3 * * *", "Days")
    changed = typed | {"arg_rows": "8", "when": "every", "count": "2", "unit": "hours", "school": ""}
    assert client.post(LINK, data=changed).status_code == 303
    row = stored(session)
    assert (row.args["rows"], row.cron, row.every_seconds, row.school_id) == (8, None, 7200, None)
    typed = shown_in(client.get(LINK).text)
    assert typed["count"] == "2"
    assert 'value="every" checked' in client.get(LINK).text
    assert "<option selected>hours</option>" in client.get(LINK).text
    assert client.post("/schedule/custom.nightly/delete").status_code == 303
    assert stored(session) is None
    events = session.execute(
        sa.select(AuditEntry.action, AuditEntry.school_id).where(AuditEntry.subject_id == "custom.nightly")
    ).all()
    assert [events[0], *sorted(events[1:3], key=str), events[3]] == [
        ("schedule.create", school.id),
        *sorted([("schedule.update", school.id), ("schedule.update", None)], key=str),
        ("schedule.delete", None),
    ]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ({"name": "Nightly Report"}, "Must be lower-case letters and digits"),
        ({"name": "x" * 34}, "Must have at most 33 characters."),
        ({"name": ""}, "This field is required."),
        ({"arg_rows": ""}, "This field is required."),
        ({"arg_rows": "seven"}, "Must be an integer."),
        ({"arg_factor": "x"}, "Must be a number."),
        ({"arg_title": "x" * 2_001}, "More than 2000 bytes"),
        ({"arg_title": "a\0b"}, "Must be text without NUL"),
        ({"cron": ""}, "This field is required."),
        ({"cron": "* * * * * *"}, "Cron must have five fields"),
        ({"cron": "0 0 31 2 *"}, "Bad day-of-month"),
        ({"cron": "0 0 */31 2 1#5"}, "never ticks"),
        ({"cron": f"{'1,' * 50}1 * * * *"}, "Must have at most 100 characters."),
        ({"zone": "Mars/Base"}, "is not a time zone such as Europe/Berlin"),
        ({"when": "every", "count": ""}, "This field is required."),
        ({"when": "every", "count": "1.5"}, "Must be a whole number."),
        ({"when": "every", "count": "9", "unit": "seconds"}, "Must be between 10 seconds and 366 days."),
        ({"when": "every", "count": "367", "unit": "days"}, "Must be between 10 seconds and 366 days."),
        ({"school": "999999"}, "Select one of the schools."),
        ({"job": "mail.deliver"}, "runs many records at once"),
        ({"job": "test.with_secret"}, "has secret arguments"),
        ({"job": "no.such"}, "is not a job: select one"),
    ],
)
def test_an_invalid_value_is_named_beside_its_field_and_all_that_was_typed_is_kept(
    client, session, admin, typed, message
):
    response = client.post(NEW, data=FORM | {"arg_factor": "2.5"} | typed)
    assert response.status_code == 422
    assert message in response.text.replace("&#39;", "'")
    sent = FORM | {"arg_factor": "2.5"} | typed
    kept = shown_in(response.text)
    if "job" not in typed and "\0" not in sent["cron"] + sent.get("arg_title", ""):
        assert {name: kept[name] for name in ("name", "arg_rows", "arg_factor", "cron", "zone")} == {
            name: sent[name] for name in ("name", "arg_rows", "arg_factor", "cron", "zone")
        }
    assert session.scalars(sa.select(CustomSchedule)).all() == []


def test_errors_of_every_field_are_shown_together(client, admin):
    page = client.post(NEW, data={"job": "test.report", "when": "cron", "arg_factor": "x", "school": "x"}).text
    assert page.count('class="field-errors" id=') == 5  # name, rows, factor, cron, school
    assert page.count('aria-invalid="true"') == 5


def test_a_name_is_taken_once_and_their_number_is_bounded(client, session, admin, monkeypatch):
    assert client.post(NEW, data=FORM).status_code == 303
    taken = client.post(NEW, data=FORM | {"name": "custom.nightly"})
    assert taken.status_code == 422
    assert "Custom.nightly exists already." in taken.text
    monkeypatch.setattr(custom_schedules, "MAX_SCHEDULES", 1)
    full = client.post(NEW, data=FORM | {"name": "another"})
    assert full.status_code == 422
    assert "There are 1 schedules that users made: delete one first." in full.text
    assert shown_in(full.text)["name"] == "another"


def test_the_next_five_runs_are_shown_before_saving_with_and_without_scripts(client, session, clock, admin):
    clock.move_to("2030-05-06T10:00:00+00:00")
    log_in(client, admin)
    page = client.post(NEW, data=FORM | {"preview": "1", "name": ""})
    assert page.status_code == 200
    assert "At 03:00 every day" in page.text
    days = [f"{day} May 2030, 05:00" for day in range(7, 12)]  # in the admin's zone
    assert [day for day in days if day in page.text] == days
    assert "12 May 2030" not in page.text
    assert 'role="alert"' not in page.text
    fragment = client.get("/schedule/preview?when=every&count=15&unit=minutes").text
    assert "Every 15 minutes" in fragment
    assert fragment.count("<li>") == 5
    assert "<main" not in fragment
    assert "Must be between" in client.get("/schedule/preview?when=every&count=1&unit=seconds").text
    assert "Cron must have five fields" in client.get("/schedule/preview?when=cron&cron=never&zone=UTC").text
    assert "Enter when it runs" in client.get("/schedule/preview").text
    assert stored(session) is None


def test_only_admins_make_and_change_them(client, session):
    custom_schedules.create(Draft("nightly", "maintenance.prune", cron="0 3 * * *"))
    for role in (Role.STAFF, Role.MEMBER):
        log_in(client, make_user(role))
        for path in (NEW, LINK, "/schedule/preview"):
            assert client.get(path).status_code == 403
        for path in (NEW, LINK, "/schedule/custom.nightly/delete", "/schedule/custom.nightly/run"):
            assert client.post(path, data=FORM).status_code == 403
        client.post("/logout")
    assert stored(session).cron == "0 3 * * *"


def test_those_of_the_code_have_no_form(client, admin):
    name = "maintenance.prune"
    assert f"/schedule/{name}/edit" not in client.get("/schedule").text
    assert client.get(f"/schedule/{name}/edit").status_code == 404
    assert client.post(f"/schedule/{name}/delete").status_code == 404
    assert "No schedules created by users" in client.get("/schedule").text


def test_staff_see_those_of_their_school_and_no_others(client, session):
    ours, theirs = make_school(), make_school()
    for name, school_id in (("ours", ours.id), ("theirs", theirs.id), ("of-system", None)):
        custom_schedules.create(Draft(name, "maintenance.prune", every_seconds=3600, school_id=school_id))
    log_in(client, make_user(Role.STAFF, school_id=ours.id))
    page = client.get("/schedule").text
    assert "custom.ours" in page
    assert "custom.theirs" not in page
    assert "custom.of-system" not in page
    with use_scope(Scope(ours.id)):
        assert [entry.name for entry in periodic.entries() if entry.model is CustomSchedule] == ["custom.ours"]


def test_run_now_enqueues_for_its_school_and_its_last_run_is_shown(client, session, admin):
    school = make_school()
    with use_actor(Actor(admin.id)):
        custom_schedules.create(Draft("nightly", "test.report", {"rows": 7}, every_seconds=60, school_id=school.id))
    assert client.post("/schedule/custom.nightly/run").status_code == 303
    record = session.scalars(sa.select(JobRecord).where(JobRecord.subject_id == "custom.nightly")).one()
    assert (record.args, record.school_id, record.user_id) == ({"rows": 7}, school.id, admin.id)
    assert f'href="/jobs/{record.id}"' in client.get("/schedule?name=custom.nightly").text
    # Another one of this name has not run.
    custom_schedules.delete("custom.nightly")
    custom_schedules.create(Draft("nightly", "test.report", {"rows": 7}, every_seconds=60))
    assert periodic.periodic_job(periodic.get_entry("custom.nightly")).last_job is None


def test_what_cannot_run_is_shown_with_the_reason_and_can_be_deleted(client, session, admin):
    custom_schedules.create(Draft("nightly", "test.report", {"rows": 7}, every_seconds=60))
    forget("test.report")
    for page in ("/schedule", LINK):
        assert "It does not run. The running code has no job test.report." in client.get(page).text
    assert client.post(LINK, data=FORM).status_code == 422
    assert client.post("/schedule/custom.nightly/run").status_code == 409
    assert client.post("/schedule/custom.nightly/pause").status_code == 303
    assert client.post("/schedule/custom.nightly/resume").status_code == 409
    assert client.post("/schedule/custom.nightly/delete").status_code == 303
    assert stored(session) is None


def test_a_form_without_its_token_is_refused(app, client, session, admin):
    app.config["WTF_CSRF_ENABLED"] = True
    assert client.post(NEW, data=FORM).status_code == 400
    assert stored(session) is None


def test_a_form_that_another_user_has_overtaken_is_shown_again_and_replaces_the_values_when_saved_again(
    client, session, admin
):
    assert client.post(NEW, data=FORM).status_code == 303
    path = "/schedule/custom.nightly/edit"

    def version() -> str:
        return client.get(path).text.partition('name="version" value="')[2].partition('"')[0]

    first = version()
    with use_actor(Actor(make_user(Role.ADMIN, name="Grace").id)):
        custom_schedules.update("custom.nightly", Draft(job="test.report", args={"rows": 7}, cron="0 5 * * *"))
    mine = FORM | {"cron": "0 6 * * *", "version": first}
    stale = client.post(path, data=mine)
    assert stale.status_code == 409
    assert "has changed since you opened this form: it runs at 05:00 every day, for Grace." in stale.text
    assert 'value="0 6 * * *"' in stale.text
    assert stored(session).cron == "0 5 * * *"
    again = stale.text.partition('name="version" value="')[2].partition('"')[0]
    assert again == version() != first
    assert client.post(path, data=mine | {"version": again}).status_code == 303
    assert stored(session).cron == "0 6 * * *"
