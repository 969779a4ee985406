"""The admin panel: all models, for administrators only, with names that people use."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.admin.fields import LABELS
from app.reservations import Resource
from flask_belfry.changes import StatusChange
from flask_belfry.db import Base
from flask_belfry.mail import EmailMessage
from tests.admin_panel import act, edit, listed, views
from tests.reservation_factories import log_in, make_reservation, make_resource, make_school, make_user
from tests.work_item_factories import make_task

# The package has a function of this name.
panel_views = import_module("app.admin.views")
sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def models() -> list[Any]:
    """The application's; the tests have some of their own."""
    return [mapper.class_ for mapper in Base.registry.mappers if mapper.class_.__module__.startswith(panel_views.OWN)]


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
            "Guardian",
            "LoginAddress",
            "MessagePreference",
            "AccountCode",
            "WorkItemWatcher",
            "DigestEntry",
            "EmailMessage",
            "StatusChange",
            "AuditEntry",
        ),
        *("Notification", "ScheduledNotification", "NotificationDelivery", "NotificationRecipient"),
        *("NotificationPreference", "NotificationSettings"),
        *("JobRecord", "JobAttempt", "JobBatch", "JobLog", "JobLimit", "JobPause", "UniquePeriod"),
        *("EmailSuppression", "MailDomainHold"),
        *("Schedule", "CustomSchedule", "ScheduleTick", "WorkerProcess", "FailureGroup", "BulkOperation"),
    }
    assert routes["AccessToken"] == {*looked_at, "action_view"}
    assert routes["WorkItemComment"] == {*looked_at, "action_view", "delete_view"}


def test_a_row_that_is_not_there_is_not_found(session, panel):
    pages = [f"users/{page}" for page in ("details", "edit", "delete")]
    pages += [f"{table}/details" for table in ("job_records", "schedules", "schedule_ticks", "work_item_watchers")]
    for id in ("", "999", "x", "1,2", "x,2025-01-01", "99999999999", "%00", "-1", "1.5", "²"):
        assert {panel.get(f"/admin/{page}/?id={id}").status_code for page in pages} == {404}, id


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
