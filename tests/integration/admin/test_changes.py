"""Changes in the admin panel follow the rules of the services and are recorded."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa

from app.accounts import AccessToken, Role, User, issue_personal_token, verify_token
from app.audit import AuditEntry
from app.reservations import Reservation, ReservationStatus, Resource
from app.schools import School, default_school
from app.work_items import Story, WorkItem, WorkStatus
from flask_belfry.changes import StatusChange
from flask_belfry.db import db
from tests.admin_panel import act, changes, edit
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

sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def entries(action: str) -> list[tuple[Any, ...]]:
    query = sa.select(AuditEntry).where(AuditEntry.action == action).order_by(AuditEntry.id)
    return [(f"{row.subject_type}/{row.subject_id}", row.user_id, row.details) for row in db.session.scalars(query)]


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
    assert edit(panel, url, may_operate="y").status_code == 303
    session.expire_all()
    assert ada.is_operator
    assert edit(panel, url, password="another long one", name="Ada L.", role="member").status_code == 303
    session.expire_all()
    assert (ada.name, ada.role, ada.may_operate) == ("Ada L.", Role.MEMBER, False)
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
    assert (entry.school_id, entry.ip_address) == (school.id, "127.0.0.1")
    assert panel.post(f"/admin/resources/delete/?id={hall.id}").status_code == 303
    assert [subject for subject, _, _ in entries("resource.delete")] == [f"resource/{hall.id}"]
    assert panel.post("/admin/schools/new/", data={"name": "New", "slug": "Not one"}).status_code == 422
    assert panel.post("/admin/schools/new/", data={"name": "New", "slug": "new"}).status_code == 303
    new_school = session.scalars(sa.select(School).where(School.slug == "new")).one()
    assert panel.post(f"/admin/schools/delete/?id={new_school.id}").status_code == 303
    for event in ("school.create", "school.delete"):
        assert entries(event)[-1] == (f"school/{new_school.id}", admin.id, {})
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
