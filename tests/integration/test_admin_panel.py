"""The admin panel: all models, for admins only; what is done there keeps the rules of everywhere and is on record."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import pytest
import sqlalchemy as sa

from app.accounts import AccessToken, Role, User, issue_personal_token, verify_token
from app.admin.fields import LABELS
from app.admin.secrets import SECRET_COLUMNS
from app.admin.view import PanelView
from app.audit import AuditEntry
from app.reservations import Reservation, ReservationStatus, Resource
from app.schools import School, default_school
from app.work_items import Story, WorkItem, WorkItemComment, WorkStatus
from flask_belfry.changes import StatusChange
from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base, db
from flask_belfry.mail import EmailMessage
from tests.forms import shown_in
from tests.ledger import mails
from tests.reservation_factories import (
    PASSWORD,
    bearer,
    log_in,
    make_reservation,
    make_resource,
    make_school,
    make_user,
    tomorrow,
)
from tests.work_item_factories import make_epic, make_task

# The package has a function of this name.
panel_views = import_module("app.admin.views")
sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

SMELL = re.compile(r"hash|secret|token|nonce|uniquifier|password|key|recovery|counter")
# Columns that smell and may be seen.
EXCUSED = {
    ("users", "username_key"): "the username in small letters",
    ("job_records", "unique_key"): "what makes a job the only one of its kind: names and ids",
    ("email_messages", "unique_key"): "what makes a mail the only one of its kind: names and ids",
}
INLINE = re.compile(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", re.IGNORECASE)


@pytest.fixture
def admin(session) -> User:
    return make_user(Role.ADMIN)


@pytest.fixture
def panel(client, admin):
    """The browser of an admin."""
    return log_in(client, admin)


def views(app) -> list[PanelView]:
    return app.extensions["admin"][0]._views[1:]


def models() -> list[Any]:
    """The application's; the tests have some of their own."""
    return [mapper.class_ for mapper in Base.registry.mappers if mapper.class_.__module__.startswith(panel_views.OWN)]


def edit(panel, url: str, **changes: Any):
    """Sends the form as a browser does: what it showed, with some fields typed over."""
    return panel.post(url, data={**shown_in(panel.get(url).text), **changes})


def act(panel, table: str, action: str, rows: Iterable[Any], **more: Any):
    """A bulk action, asked and confirmed."""
    data = {"action": action, "rowid": [row.id for row in rows], **more}
    asked = panel.post(f"/admin/{table}/action/", data=data)
    assert asked.status_code == 200, asked.text
    return panel.post(f"/admin/{table}/action/", data={**data, "confirmed": "yes"})


def entries(action: str) -> list[tuple[Any, ...]]:
    query = sa.select(AuditEntry).where(AuditEntry.action == action).order_by(AuditEntry.id)
    return [(f"{row.subject_type}/{row.subject_id}", row.user_id, row.details) for row in db.session.scalars(query)]


def changes(subject: str, field: str) -> list[tuple[Any, ...]]:
    kind, _, id = subject.partition("/")
    query = sa.select(StatusChange).where(StatusChange.subject_type == kind, StatusChange.subject_id == id)
    found = db.session.scalars(query.where(StatusChange.field == field).order_by(StatusChange.id))
    return [(row.old, row.new, row.user_id, row.address) for row in found]


# ── What is in it ────────────────────────────────────────────────────────────────────────────────────────────────


@sqlite
def test_every_model_is_in_the_panel_or_left_out_for_a_reason(app):
    # What is a kind of another, in its table, is shown with it.
    inside = {view.model for view in views(app)}
    left_out = panel_views.LEFT_OUT
    missing = [model for model in models() if not inside.intersection(model.__mro__) and model not in left_out]
    assert missing == [], (
        "import their slice into SLICES of app/__init__.py, or give a reason in LEFT_OUT of app/admin/views.py"
    )
    assert all(left_out.values())


@sqlite
def test_every_column_that_smells_of_a_secret_is_hidden_or_excused(app):
    shown = {(view.mapper.local_table.name, name) for view in views(app) for name in view.shown}
    assert len(shown) > 150
    assert {column for column in shown if SMELL.search(column[1])} == EXCUSED.keys()
    for model, names in SECRET_COLUMNS.items():
        assert names <= set(sa.inspect(model).columns.keys()), "a secret's name is wrong"


@sqlite
def test_a_view_that_names_a_secret_is_refused(app):
    for named in ("columns", "searches", "filters", "sorts", "creates", "changes"):
        with pytest.raises(ValueError, match="password_hash is never shown"):
            PanelView(User, "People", "Users", **{named: ["password_hash"]})


def fill() -> dict[str, Any]:
    """A row of many kinds, and the values that are never shown."""
    user = make_user(tf_totp_secret="zz-totp", mf_recovery_codes=["zz-recovery"], fs_uniquifier="zz-uniquifier")
    _, token = issue_personal_token(user, "script", ["read"])
    make_reservation(user, resource=make_resource()).status = ReservationStatus.CONFIRMED
    task = make_task(responsible=user)
    db.session.add(WorkItemComment(item=task, author=user, text="Done.", school_id=task.school_id))
    task.status = WorkStatus.DONE
    db.session.commit()
    secrets = [user.password_hash, user.fs_uniquifier, "zz-totp", "zz-recovery", token.hash]
    return {"secrets": secrets, "user": user.id}


def pages(app, panel) -> Iterable[tuple[str, Any]]:
    """Every page of the panel, those of a row with the first row that its list has."""
    for view in views(app):
        base = f"/admin/{view.url.rpartition('/')[2]}/"
        listed = panel.get(base)
        yield base, listed
        link = re.search(rf'href="{base}details/(\?id=[^"]+)"', listed.text)
        for _, name, _ in view._urls:
            if name == "create_view":
                yield f"{base}new/", panel.get(f"{base}new/")
            if name in ("details_view", "edit_view", "delete_view") and link:
                url = f"{base}{name.removesuffix('_view')}/{link[1]}"
                yield url, panel.get(url)
        yield f"{base}export/csv/", panel.get(f"{base}export/csv/")


def test_every_page_shows_no_secret_and_runs_no_script_of_its_own(app, session, panel):
    secrets = fill()["secrets"]
    seen = {}
    for url, answer in pages(app, panel):
        assert answer.status_code == 200, (url, answer.text)
        assert not INLINE.search(answer.text), (url, INLINE.search(answer.text))
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert [secret for secret in secrets if secret in answer.text] == [], url
        seen[url] = answer.text
    assert len(seen) > 50
    assert not [url for url, text in seen.items() if "static/admin" in text or "bootstrap" in text]


@sqlite
def test_secrets_cannot_be_searched_for(session, panel):
    user = make_user(fs_uniquifier="zz-uniquifier")
    for query in ("text=zz-uniquifier", "fs_uniquifier=other", "order=fs_uniquifier"):
        text = panel.get(f"/admin/users/?{query}").text
        assert (user.username in text) is (not query.startswith("text="))


# ── Who may come in ──────────────────────────────────────────────────────────────────────────────────────────────


@sqlite
@pytest.mark.parametrize("role", list(Role))
def test_only_admins_see_that_there_is_a_panel(session, client, role):
    client = log_in(client, make_user(role))
    assert ('href="/admin/"' in client.get("/reservations/").text) is (role is Role.ADMIN)
    assert client.get("/admin/").status_code == (200 if role is Role.ADMIN else 403)


@sqlite
def test_every_action_requires_a_csrf_token(app, session, panel):
    row = make_resource(name="Hall")
    app.config["WTF_CSRF_ENABLED"] = True
    posts = [rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("admin") and "POST" in rule.methods]
    assert len(posts) > 15
    for rule in posts:
        data = {"action": "delete", "rowid": row.id, "confirmed": "yes"}
        assert panel.post(f"{rule.rule}?id={row.id}", data=data).status_code == 400, rule.rule
    assert session.get(Resource, row.id).name == "Hall"


def test_a_model_without_a_line_is_shown_read_only_under_the_name_of_its_slice(monkeypatch):
    described = [view for view in panel_views._described() if view.model is not Resource]
    monkeypatch.setattr(panel_views, "_described", lambda: described)
    (view,) = set(panel_views.views()) - set(described)
    assert (view.model, view.category, view.name) == (Resource, "Reservations", "Resources")
    assert {name for _, name, _ in view._urls} == {"index_view", "details_view", "export"}


@sqlite
def test_what_can_only_be_looked_at_has_no_address_for_more(app):
    described = {view.model for view in panel_views._described()}
    routes = {
        view.model.__name__: {name for _, name, _ in view._urls} for view in views(app) if view.model in described
    }
    looked_at = {"index_view", "details_view", "export"}
    assert {name for name, found in routes.items() if found == looked_at} == {
        *(
            "LoginAddress",
            "MessagePreference",
            "AccountCode",
            "WorkItemWatcher",
            "DigestEntry",
            "EmailMessage",
            "StatusChange",
            "AuditEntry",
        ),
        *("JobRecord", "JobAttempt", "Schedule", "ScheduleTick", "WorkerProcess"),
    }
    assert routes["AccessToken"] == {*looked_at, "action_view"}
    assert routes["WorkItemComment"] == {*looked_at, "action_view", "delete_view"}


def test_a_row_that_is_not_there_is_not_found(session, panel):
    pages = [f"users/{page}" for page in ("details", "edit", "delete")]
    pages += [f"{table}/details" for table in ("job_records", "schedules", "schedule_ticks", "work_item_watchers")]
    for id in ("", "999", "x", "1,2", "x,2025-01-01", "99999999999", "%00", "-1", "1.5", "²"):
        assert {panel.get(f"/admin/{page}/?id={id}").status_code for page in pages} == {404}, id


# ── The same as everywhere ───────────────────────────────────────────────────────────────────────────────────────


def through_the_api(client, admin, item) -> None:
    url = f"/api/v1/tasks/{item.id}"
    assert client.patch(url, json={"status": "IN_REVIEW"}, headers=bearer(admin)).status_code == 200


def through_the_form(client, admin, item) -> None:
    answer = edit(log_in(client, admin), f"/admin/work_items/edit/?id={item.id}", status="IN_REVIEW")
    assert answer.status_code == 303, answer.text


def through_the_action(client, admin, item) -> None:
    assert act(log_in(client, admin), "work_items", "set-IN_REVIEW", [item]).status_code == 303


@sqlite
@pytest.mark.parametrize("way", [through_the_api, through_the_form, through_the_action])
def test_a_status_of_a_work_item_mails_the_same_and_is_recorded_the_same_whichever_way(session, client, admin, way):
    owner, reporter = make_user(), make_user()
    task = make_task(responsible=owner, reporter=reporter)
    way(client, admin, task)
    session.expire_all()
    assert task.status is WorkStatus.IN_REVIEW
    sent = mails("work-item-status")
    assert sorted(mail.recipients[0] for mail in sent) == sorted([owner.email, reporter.email])
    assert {mail.user_id for mail in sent} == {admin.id}
    assert changes(f"work_item/{task.id}", "status") == [("TODO", "IN_REVIEW", admin.id, "127.0.0.1")]
    assert entries("admin.update") == []


@sqlite
@pytest.mark.parametrize("way", ["form", "action", "page"])
def test_a_status_of_a_reservation_mails_the_same_and_is_recorded_the_same_whichever_way(session, panel, admin, way):
    row = make_reservation()
    if way == "form":
        answer = edit(panel, f"/admin/reservations/edit/?id={row.id}", status="confirmed")
    elif way == "action":
        answer = act(panel, "reservations", "set-confirmed", [row])
    else:
        answer = panel.post(f"/reservations/{row.id}/status", data={"status": "confirmed"})
    assert answer.status_code == 303, answer.text
    (mail,) = mails("reservation-status")
    assert mail.recipients == [row.customer.email]
    assert changes(f"reservation/{row.id}", "status") == [("pending", "confirmed", admin.id, "127.0.0.1")]


@sqlite
def test_a_bulk_action_changes_all_or_none(session, panel):
    open_, ended = make_reservation(), make_reservation(status=ReservationStatus.CANCELLED)
    answer = act(panel, "reservations", "set-confirmed", [open_, ended])
    assert answer.status_code == 409
    assert f"Reservation #{ended.id} is cancelled and cannot become confirmed." in answer.text
    session.expire_all()
    assert open_.status is ReservationStatus.PENDING
    assert mails("reservation-status") == []
    assert panel.post("/admin/reservations/action/", data={"action": "set-gone", "rowid": 1}).status_code == 422
    gone = {"action": "set-confirmed", "rowid": [open_.id, 999]}
    assert panel.post("/admin/reservations/action/", data=gone).status_code == 404


@sqlite
def test_saving_what_is_unchanged_does_nothing(session, panel):
    task = make_task(description="Line one\nand two", due_date=tomorrow().date())
    row = make_reservation(note="Bring chairs", start_time=tomorrow().replace(second=42))
    user = make_user(time_zone="Europe/Berlin")
    before = [task.updated_at, row.updated_at]
    for url in (f"work_items/edit/?id={task.id}", f"reservations/edit/?id={row.id}", f"users/edit/?id={user.id}"):
        assert edit(panel, f"/admin/{url}").status_code == 303
    session.expire_all()
    assert [task.updated_at, row.updated_at] == before
    assert session.scalar(sa.select(sa.func.count()).select_from(StatusChange)) == 0
    assert entries("admin.update") == []


@sqlite
def test_an_item_is_made_changed_and_deleted_by_the_services_of_work_items(session, panel, admin):
    epic, owner = make_epic(), make_user()
    new = {"kind": "story", "title": " A  story ", "status": "TODO", "priority": "HIGH", "parent_id": str(epic.id)}
    assert panel.post("/admin/work_items/new/", data={**new, "responsible_id": owner.username}).status_code == 303
    (story,) = session.scalars(sa.select(Story))
    assert (story.title, story.parent, story.responsible, story.priority.value) == ("A story", epic, owner, "HIGH")
    assert [subject for subject, _, _ in entries("work_item.create")][-1] == f"work_item/{story.id}"
    url = f"/admin/work_items/edit/?id={story.id}"
    wrong = edit(panel, url, parent_id=str(story.id), responsible_id="nobody.here")
    assert wrong.status_code == 422
    assert "No user has this username or email address." in wrong.text
    wrong = edit(panel, url, parent_id=str(story.id))
    assert wrong.status_code == 422
    assert re.search(r'id="parent_id-errors">[^<]*epics', wrong.text)
    assert edit(panel, url, description="New words", responsible_id=owner.email).status_code == 303
    assert entries("admin.update") == [(f"work_item/{story.id}", admin.id, {"fields": ["description"]})]
    refused = panel.post(f"/admin/work_items/delete/?id={epic.id}", data={"parts": ""})
    assert refused.status_code == 409
    assert "delete them too, or move them" in refused.text
    assert panel.post(f"/admin/work_items/delete/?id={epic.id}", data={"parts": "delete"}).status_code == 303
    assert session.scalars(sa.select(WorkItem)).all() == []
    assert len(entries("work_item.delete")) == 2


@sqlite
def test_a_reservation_is_made_and_changed_by_the_services_of_reservations(session, panel):
    hall, customer = make_resource(capacity=5), make_user()
    new = {"customer_id": customer.email, "start_time": f"{tomorrow():%Y-%m-%dT%H:%M}", "duration_minutes": "60"}
    new |= {"resource_id": str(hall.id), "party_size": "6"}
    wrong = panel.post("/admin/reservations/new/", data=new)
    assert wrong.status_code == 422
    assert "holds 5" in wrong.text
    assert panel.post("/admin/reservations/new/", data=new | {"party_size": "5"}).status_code == 303
    (row,) = session.scalars(sa.select(Reservation))
    assert (row.customer, row.start_time, row.party_size) == (customer, tomorrow(), 5)
    assert [subject for subject, _, _ in entries("admin.create")] == [f"reservation/{row.id}"]
    taken = panel.post("/admin/reservations/new/", data=new | {"party_size": "1"})
    assert taken.status_code == 409
    assert "already booked" in taken.text
    assert edit(panel, f"/admin/reservations/edit/?id={row.id}", duration_minutes="90").status_code == 303
    assert changes(f"reservation/{row.id}", "duration_minutes")[0][:2] == ("60", "90")
    assert panel.post(f"/admin/reservations/delete/?id={row.id}").status_code == 303
    assert [subject for subject, _, _ in entries("reservation.delete")] == [f"reservation/{row.id}"]


@sqlite
def test_users_keep_to_the_rules_of_accounts(session, panel, admin):
    other, school = make_user(), make_school()
    new = {"username": "a", "email": "none", "name": "Ada", "role": "staff", "password": "short"}
    wrong = panel.post("/admin/users/new/", data=new)
    assert wrong.status_code == 422
    for field in ("username", "email", "password"):
        assert f'id="{field}-errors"' in wrong.text, field
    new |= {"username": "ada", "email": "ada@example.org", "password": PASSWORD, "school_id": str(school.id)}
    assert panel.post("/admin/users/new/", data=new).status_code == 303
    ada = session.scalars(sa.select(User).where(User.username == "ada")).one()
    assert (ada.role, ada.school_id, ada.is_confirmed) == (Role.STAFF, school.id, True)
    url = f"/admin/users/edit/?id={ada.id}"
    taken = edit(panel, url, email=other.email.upper(), username=other.username.upper())
    assert taken.status_code == 422
    assert taken.text.count("Already taken.") == 2
    text, _ = issue_personal_token(ada, "script", ["read"])
    session.commit()
    uniquifier = ada.fs_uniquifier
    assert edit(panel, url, password="another long one", name="Ada L.", role="member").status_code == 303
    session.expire_all()
    assert (ada.name, ada.role) == ("Ada L.", Role.MEMBER)
    assert ada.fs_uniquifier != uniquifier
    assert verify_token(text) is None
    assert [mail.recipients for mail in mails("password-changed")] == [["ada@example.org"]]
    assert changes(f"user/{ada.id}", "password_hash") == [(None, None, admin.id, "127.0.0.1")]
    assert changes(f"user/{ada.id}", "role") == [("staff", "member", admin.id, "127.0.0.1")]
    assert changes(f"user/{ada.id}", "name") == [(None, None, admin.id, "127.0.0.1")], "that it changed, and no more"
    assert log_in(panel.application.test_client(), make_user()).get("/reservations/").status_code == 200


@sqlite
def test_admins_cannot_lock_themselves_out(session, panel, admin):
    url = f"/admin/users/edit/?id={admin.id}"
    form = shown_in(panel.get(url).text)
    form.pop("active")
    assert panel.post(url, data=form | {"role": "member"}).status_code == 409
    assert panel.post(f"/admin/users/delete/?id={admin.id}").status_code == 409
    assert act(panel, "users", "delete", [make_user(), admin]).status_code == 409
    session.expire_all()
    assert (admin.role, admin.active) == (Role.ADMIN, True)
    assert session.scalar(sa.select(sa.func.count()).select_from(User)) == 2
    assert edit(panel, url, name="Another name").status_code == 303


@sqlite
def test_a_disabled_user_is_out_at_once(session, panel):
    user = make_user()
    text, _ = issue_personal_token(user, "script", ["read"])
    session.commit()
    url, uniquifier = f"/admin/users/edit/?id={user.id}", user.fs_uniquifier
    form = shown_in(panel.get(url).text)
    form.pop("active")
    assert panel.post(url, data=form).status_code == 303
    assert edit(panel, url, active="y").status_code == 303
    session.expire_all()
    assert user.active
    assert user.fs_uniquifier != uniquifier, "an enabled user has to log in again"
    assert verify_token(text) is None
    assert changes(f"user/{user.id}", "active")[0][:2] == ("True", "False")


@sqlite
def test_tokens_are_revoked_and_on_record(session, panel, admin):
    text, token = issue_personal_token(make_user(), "script", ["read"])
    session.commit()
    assert act(panel, "access_tokens", "revoke", [token]).status_code == 303
    assert verify_token(text) is None
    assert session.get(AccessToken, token.id).revoked_at is not None
    assert [change[2] for change in changes(f"access_token/{token.id}", "revoked_at")] == [admin.id]


@sqlite
def test_rows_without_services_are_made_changed_and_deleted_and_on_record(session, panel, admin):
    school = make_school()
    new = {"school_id": str(school.id), "name": "Hall", "capacity": "30", "active": "y"}
    for field, value in (("capacity", "many"), ("capacity", "99999999999"), ("name", ""), ("name", "x" * 81)):
        wrong = panel.post("/admin/resources/new/", data=new | {field: value})
        assert wrong.status_code == 422
        assert f'id="{field}-errors"' in wrong.text
    assert panel.post("/admin/resources/new/", data=new).status_code == 303
    (hall,) = session.scalars(sa.select(Resource))
    assert [subject for subject, _, _ in entries("resource.create")] == [f"resource/{hall.id}"]
    assert panel.post("/admin/resources/new/", data=new).status_code == 409
    url = f"/admin/resources/edit/?id={hall.id}"
    assert edit(panel, url, capacity="0").status_code == 409
    assert edit(panel, url, capacity="40", name="Great hall").status_code == 303
    assert entries("admin.update") == [(f"resource/{hall.id}", admin.id, {"fields": ["capacity", "name"]})]
    entry = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "admin.update")).one()
    assert (entry.school_id, entry.address) == (school.id, "127.0.0.1")
    assert panel.post(f"/admin/resources/delete/?id={hall.id}").status_code == 303
    assert [subject for subject, _, _ in entries("resource.delete")] == [f"resource/{hall.id}"]
    assert panel.post("/admin/schools/new/", data={"name": "New", "slug": "Not one"}).status_code == 422
    assert panel.post("/admin/schools/new/", data={"name": "New", "slug": "new"}).status_code == 303
    new_school = session.scalars(sa.select(School).where(School.slug == "new")).one()
    assert panel.post(f"/admin/schools/delete/?id={new_school.id}").status_code == 303
    for event in ("admin.create", "admin.delete"):
        assert [subject for subject, _, _ in entries(event)] == [f"school/{new_school.id}"]
    assert panel.post(f"/admin/schools/delete/?id={default_school().id}").status_code == 409


@sqlite
def test_what_others_refer_to_is_not_deleted_and_it_is_said_by_what(session, panel):
    task = make_task(reporter=make_user())
    alone = make_user()
    for answer in (
        panel.post(f"/admin/users/delete/?id={task.reporter_id}"),
        act(panel, "users", "delete", [alone, task.reporter]),
    ):
        assert answer.status_code == 409
        assert "It cannot be deleted: rows of work items refer to it." in answer.text
    session.expire_all()
    assert session.get(User, task.reporter_id) is not None
    assert session.get(User, alone.id) is not None
    assert entries("user.delete") == []
    assert act(panel, "users", "delete", [alone]).status_code == 303
    assert session.scalar(sa.select(User.id).where(User.id == alone.id)) is None
    assert len(entries("user.delete")) == 1


@sqlite
def test_a_get_deletes_nothing_and_asks(session, panel):
    row = make_resource(name="Hall")
    assert "Hall" in panel.get(f"/admin/resources/delete/?id={row.id}").text
    asked = panel.post("/admin/resources/action/", data={"action": "delete", "rowid": row.id})
    assert asked.status_code == 200
    assert "Hall" in asked.text
    assert session.get(Resource, row.id) is not None


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_of_two_editors_the_second_sees_what_the_first_has_done(session, panel):
    task = make_task(title="Old title", description="Old words")
    url = f"/admin/work_items/edit/?id={task.id}"
    first = shown_in(panel.get(url).text)
    second = dict(first)
    assert panel.post(url, data=first | {"title": "The first one's"}).status_code == 303
    answer = panel.post(url, data=second | {"title": "The second one's"})
    assert answer.status_code == 409
    assert "Another user has changed this row." in answer.text
    assert "Current value: The first one&#39;s." in answer.text
    assert shown_in(answer.text)["title"] == "The second one&#39;s"
    session.expire_all()
    assert task.title == "The first one's"
    again = second | {"title": "The second one's", "seen": shown_in(answer.text)["seen"]}
    assert panel.post(url, data=again).status_code == 303
    session.expire_all()
    assert task.title == "The second one's"
    assert panel.post(url, data=first | {"seen": ""}).status_code == 409


# ── Lists ────────────────────────────────────────────────────────────────────────────────────────────────────────


def listed(panel, url: str) -> list[int]:
    return [int(id) for id in re.findall(r'name="rowid" value="(\d+)"', panel.get(url).text)]


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_lists_are_searched_filtered_and_ordered(session, panel):
    one = make_task(title="Paint 100% of it", status="DONE", due_date=tomorrow().date())
    two = make_task(title="Sweep", priority="HIGH", description="paint too", responsible=make_user())
    url = "/admin/work_items/?"
    assert listed(panel, url + "kind=task") == [two.id, one.id]
    assert listed(panel, url + "kind=task&order=id") == [one.id, two.id]
    assert listed(panel, url + "text=PAINT") == [two.id, one.id]
    assert listed(panel, url + "text=100%25") == [one.id]
    assert listed(panel, url + f"text=%23{one.id}") == [one.id]
    assert listed(panel, url + "status=DONE&priority=MEDIUM") == [one.id]
    assert listed(panel, url + f"responsible_id={two.responsible_id}") == [two.id]
    assert listed(panel, url + f"due_date_from={tomorrow():%Y-%m-%d}") == [one.id]
    assert listed(panel, url + f"due_date_before={tomorrow():%Y-%m-%d}") == []
    everything = listed(panel, url)
    # What is no value is no filter.
    for query in ("status=GONE", "responsible_id=x", "responsible_id=99999999999", "due_date_from=x", "order=title"):
        assert listed(panel, url + query) == everything
    assert panel.get(url + "cursor=nonsense").status_code == 422
    users = listed(panel, "/admin/users/?order=username_key")
    names = {id: key for id, key in session.execute(sa.select(User.id, User.username_key))}  # noqa: C416 - rows
    assert users == sorted(names, key=lambda id: names[id])
    assert listed(panel, "/admin/users/?active=no") == []
    assert panel.get(f"/admin/users/?created_at_from={utc_now():%Y-%m-%d}").text.count('name="rowid"') == len(names)


@sqlite
def test_a_list_costs_a_few_statements_and_never_counts_or_skips(session, panel, statements):
    for _ in range(30):
        make_reservation(resource=make_resource())
    statements.clear()
    first = panel.get("/admin/reservations/")
    of_first = list(statements)
    link = re.search(r'rel="next" href="([^"]+)"', first.text)
    assert link
    statements.clear()
    second = panel.get(link[1].replace("&amp;", "&"))
    assert first.text.count('name="rowid"') == 25
    assert second.text.count('name="rowid"') == 5
    # The user, the page, and the names of the customers, the resources and the schools.
    assert len(of_first) == len(statements) == 5, of_first
    assert not [each for each in statements if re.search(r"count\(|OFFSET \?\d*[1-9]", each, re.IGNORECASE)]


@sqlite
def test_every_order_is_answered_by_an_index_and_never_of_empty_values(app):
    for view in views(app):
        table = view.mapper.local_table
        leading = {next(iter(index.columns)).key for index in table.indexes}
        leading |= {column.key for column in table.columns if column.unique or column.primary_key}
        for name in view._sortable_columns:
            assert name in leading, (table.name, name)
            assert not table.columns[name].nullable, (table.name, name)


@sqlite
def test_an_export_has_all_rows_of_the_list_and_no_formulas(session, panel):
    school = make_school()
    values = ['=HYPERLINK("x")', "+1", "-1", "@SUM", "\tx", "plain, with comma"]
    for value in values:
        make_resource(name=value, school_id=school.id)
    session.execute(sa.insert(Resource), [{"name": f"Room {n}", "capacity": n + 1, "school_id": 1} for n in range(250)])
    session.commit()
    answer = panel.get("/admin/resources/export/csv/")
    assert answer.mimetype == "text/csv"
    assert "attachment" in answer.headers["Content-Disposition"]
    head, *rows = list(csv.reader(io.StringIO(answer.text)))
    assert head == ["id", "name", "capacity", "active", "school_id"]
    assert [int(row[0]) for row in rows] == list(range(256, 0, -1))
    assert {row[1] for row in rows[-6:]} == {f"'{value}" for value in values[:5]} | {values[5]}
    scoped = panel.get(f"/admin/resources/export/csv/?school_id={school.id}&order=id")
    assert [row[0] for row in csv.reader(io.StringIO(scoped.text))][1:] == [str(n) for n in range(1, 7)]


@sqlite
def test_an_admin_sees_and_changes_rows_of_every_school_in_its_name(session, panel):
    school = make_school()
    hall = make_resource(school_id=school.id)
    row = make_reservation(make_user(school_id=school.id), resource=hall)
    assert row.id in listed(panel, "/admin/reservations/")
    assert edit(panel, f"/admin/reservations/edit/?id={row.id}", status="cancelled").status_code == 303
    change = session.scalars(sa.select(StatusChange).where(StatusChange.field == "status")).one()
    assert change.school_id == school.id
    assert {mail.school_id for mail in session.scalars(sa.select(EmailMessage))} == {school.id}


@sqlite
def test_ledgers_lead_to_their_pages_and_to_what_was_done(session, panel):
    row = make_reservation()
    mail = session.scalars(sa.select(EmailMessage)).one()
    assert f'href="/mails/{mail.id}"' in panel.get(f"/admin/email_messages/details/?id={mail.id}").text
    assert f'href="/jobs/{mail.job_id}"' in panel.get(f"/admin/job_records/details/?id={mail.job_id}").text
    page = panel.get(f"/admin/reservations/details/?id={row.id}").text
    assert f'href="/reservations/{row.id}"' in page
    assert f'href="/audit?subject=reservation/{row.id}"' in page
    assert f'href="/admin/users/details/?id={row.customer_id}"' in page


@sqlite
def test_columns_and_values_have_the_names_that_people_use(session, panel):
    task = make_task(title="Tune the piano")
    shown = panel.get(f"/admin/users/details/?id={make_user().id}").text
    assert "<dt>Second factor</dt>" in shown
    assert "Tf primary" not in shown
    pages = [
        panel.get("/admin/work_items/").text,
        panel.get(f"/admin/work_items/details/?id={task.id}").text,
        panel.get(f"/admin/work_items/edit/?id={task.id}").text,
    ]
    for page in pages:
        assert "To do" in page
        assert re.findall(r">\s*(TODO|IN_PROGRESS|MEDIUM)\s*<", page) == []
    assert "With selected rows" in pages[0]
    answer = act(panel, "work_items", "set-IN_PROGRESS", [task])
    assert "Set status: In progress: done for 1 row." in panel.get(answer.location).text


@sqlite
def test_every_label_of_its_own_belongs_to_a_column(app):
    assert LABELS.keys() - {name for view in views(app) for name in view.shown} == set()
