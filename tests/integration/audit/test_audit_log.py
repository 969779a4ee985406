"""The audit log has every action once, with its transaction, and no school sees events of another."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from app import audit
from app.accounts import AccessToken, Role, User, change_password, change_user, create_user, disable
from app.audit import AuditEntry, Filters, list_events, prune_audit
from app.audit.views import groups
from app.reservations import Reservation, ReservationStatus
from flask_belfry.changes import StatusChange, Subject, recorded_columns, subject_type
from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base, db
from flask_belfry.db.columns import new_id
from flask_belfry.db.tenancy import Scope, use_scope
from flask_belfry.mail import send_mail
from flask_belfry.outbox import JobRecord, JobState, enqueue
from tests.conftest import make_app
from tests.forms import shown_in
from tests.reservation_factories import (
    PASSWORD,
    bearer,
    log_in,
    make_reservation,
    make_resource,
    make_school,
    make_user,
)
from tests.work_item_factories import make_task

ROOT = Path(__file__).resolve().parents[3]
# Where the code records an action by its name.
OWN = ("app.", "flask_belfry.")
RECORD = re.compile(r'record(?:_many|_action)?\(\s*"(\w+\.\w+)"')

# What differs between the databases is how changes are recorded in bulk: see db/test_tenancy.py.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def events(**filters):
    return [(event.action, event.subject_id) for event in list_events(Filters(**filters)).items]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_an_action_is_recorded_iff_its_transaction_commits(session, end):
    audit.record("test.action", Subject("thing", "1"), details={"size": 3})
    getattr(session, end)()
    found = session.scalars(sa.select(AuditEntry)).all()
    assert [(row.action, row.subject_id, row.details) for row in found] == (
        [("test.action", "1", {"size": 3})] if end == "commit" else []
    )


def test_changes_of_accounts_by_any_code_are_recorded_without_secrets(app, session):
    user = create_user(username="ada", email="ada@example.org", password=PASSWORD)
    session.commit()
    change_user(user, {"role": Role.STAFF})
    session.commit()
    change_password(user, "another password")
    disable(user)
    session.commit()
    session.execute(sa.update(User).values(role=Role.ADMIN, password_hash="swapped"))
    session.commit()
    assert app.test_cli_runner().invoke(args=["users", "set-role", "ada", "member"]).exit_code == 0
    changes = session.execute(sa.select(StatusChange.field, StatusChange.old, StatusChange.new)).all()
    assert sorted(map(tuple, changes), key=str) == [
        ("active", "True", "False"),
        ("password_hash", None, None),
        ("password_hash", None, None),
        ("role", "admin", "member"),
        ("role", "member", "staff"),
        ("role", "staff", "admin"),
    ]
    assert events(action="user.create") == [("user.create", str(user.id))]
    assert {row.school_id for row in session.scalars(sa.select(StatusChange))} == {user.school_id}


def test_deletions_are_recorded_one_by_one_and_in_bulk(session):
    one, *others = [make_reservation() for _ in range(3)]
    ids = {str(row.id) for row in others}
    school_id = one.school_id
    session.delete(one)
    session.commit()
    session.execute(sa.delete(Reservation).where(Reservation.id.in_(map(int, ids))))
    session.commit()
    found = session.execute(
        sa.select(AuditEntry.subject_id, AuditEntry.school_id).where(AuditEntry.action == "reservation.delete")
    ).all()
    assert sorted(map(tuple, found)) == sorted((id, school_id) for id in {*ids, "1"})


def test_logins_logouts_and_tokens_are_recorded_with_where_they_come_from(session, client):
    user = make_user()
    log_in(client, user)
    client.post("/logout")
    answer = client.post(
        "/api/v1/auth/login",
        json={"username": user.username, "password": PASSWORD},
        headers={"User-Agent": "curl/9 \x7f" + "x" * 300},
    )
    client.post("/api/v1/auth/logout", headers={"Authorization": f"Bearer {answer.json['access_token']}"})
    rows = session.scalars(
        sa.select(AuditEntry).where(AuditEntry.action != "user.create").order_by(AuditEntry.id)
    ).all()
    assert sorted(row.action for row in rows) == ["access_token.create", "user.login", "user.login", "user.logout"]
    assert {(row.user_id, row.school_id, row.ip_address) for row in rows} == {(user.id, user.school_id, "127.0.0.1")}
    assert all(row.request_id for row in rows)
    assert max(len(row.user_agent) for row in rows) == 160
    revoked = session.scalars(sa.select(StatusChange).where(StatusChange.field == "revoked_at")).one()
    assert (revoked.subject_type, revoked.user_id, revoked.ip_address) == ("access_token", user.id, "127.0.0.1")
    token = session.scalars(sa.select(AccessToken)).one()
    assert token.hash not in json.dumps([row.details for row in rows])


def test_what_people_do_to_jobs_mails_and_schedules_is_recorded(app, session, client):
    client = log_in(client, make_user(Role.ADMIN))
    job_id, mail_id = enqueue("test.greet", ticket_id=1), send_mail("test-message", "a@example.org", "key")
    session.execute(sa.update(JobRecord).values(state=JobState.FAILED))
    session.commit()
    client.post(f"/jobs/{job_id}/retry")
    client.post(f"/jobs/{job_id}/cancel")
    client.post(f"/mails/{mail_id}/resend")
    runner = app.test_cli_runner()
    assert runner.invoke(args=["jobs", "retry", job_id]).exit_code == 0
    assert runner.invoke(args=["schedule", "pause", "no such schedule"]).exit_code == 1
    assert events(action="job.retry") == [("job.retry", job_id)] * 2
    assert events(action="job.cancel") == [("job.cancel", job_id)]
    assert events(action="mail.resend") == [("mail.resend", mail_id)]
    assert events(action="schedule.pause") == []


def test_the_list_is_one_of_both_tables_in_order_of_time_by_pages(session):
    rows = [make_reservation() for _ in range(4)]
    for number, row in enumerate(rows):
        row.status = ReservationStatus.CONFIRMED
        session.commit()
        audit.record("test.action", Subject("thing", str(number)))
        session.commit()
    wanted = [event.id for event in list_events(Filters(), limit=100).items]
    assert wanted == sorted(wanted, reverse=True)
    seen, cursor = [], None
    while True:
        page = list_events(Filters(), limit=3, cursor=cursor)
        seen += [event.id for event in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == wanted
    assert events(action="reservation.status", subject=f"reservation/{rows[1].id}") == [
        ("reservation.status", str(rows[1].id))
    ]


def test_staff_see_their_schools_log_and_admins_all(session, client):
    staff, admin = make_user(Role.STAFF), make_user(Role.ADMIN, school_id=make_school().id)
    ours, theirs = make_reservation(make_user()), make_reservation(make_user(school_id=admin.school_id))
    for row in (ours, theirs):
        row.status = ReservationStatus.CONFIRMED
    session.delete(make_reservation(theirs.customer))
    audit.record("test.system")
    session.commit()
    page = log_in(client, staff).get("/audit").text
    assert f"/reservations/{ours.id}" in page
    assert f"/reservations/{theirs.id}" not in page
    assert "reservation.delete" not in page
    assert "test.system" not in page
    client.post("/logout")
    page = log_in(client, admin).get("/audit").text
    assert f"/reservations/{theirs.id}" in page
    assert f"/reservations/{ours.id}" in page
    assert all(action in page for action in ("reservation.delete", "test.system"))


def test_the_page_filters_by_login_and_says_when_nothing_matches(session, client):
    staff = make_user(Role.STAFF)
    client = log_in(client, staff)
    assert "user.login" in client.get(f"/audit?user={staff.email}").text.partition("<tbody>")[2]
    assert "No events match" in client.get("/audit?user=nobody").text
    assert "No events match" in client.get("/audit?action=no.such").text
    assert client.get("/audit?cursor=nonsense").status_code == 422


def test_members_do_not_see_the_log(client):
    assert log_in(client, make_user()).get("/audit").status_code == 403


def test_the_command_prints_what_the_page_shows(app, session):
    make_resource()
    shown = app.test_cli_runner().invoke(args=["audit", "list", "--json", "--action", "resource.create"])
    assert [(event["action"], event["user_id"]) for event in json.loads(shown.output)] == [("resource.create", None)]
    assert "resource.create" in app.test_cli_runner().invoke(args=["audit", "list"]).output


def test_old_entries_are_pruned(session):
    old = AuditEntry()
    old.id, old.action = new_id(utc_now() - timedelta(days=400)), "test.old"
    session.add(old)
    audit.record("test.new")
    session.commit()
    assert prune_audit(session, timedelta(days=365)) == 1
    session.commit()
    assert events() == [("test.new", None)]


def test_each_list_is_answered_by_an_index_without_sorting(session, statements):
    with use_scope(Scope(1)):
        for filters in (Filters(), Filters(user_id=1), Filters(subject="user/1"), Filters(action="job.retry")):
            statements.clear()
            list_events(filters)
            for statement in list(statements):
                values = [1] * statement.count("?")
                plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", tuple(values)).all()
                assert "USING INDEX" in str(plan) or "USING COVERING INDEX" in str(plan)
                assert "TEMP B-TREE" not in str(plan)


@pytest.mark.parametrize(("proxies", "ip_address"), [(0, "127.0.0.1"), (1, "198.51.100.7"), (2, "203.0.113.9")])
def test_behind_proxies_the_clients_address_is_that_of_the_outermost_trusted_one(
    settings, tmp_path, proxies, ip_address
):
    app = make_app({**settings, "TRUSTED_PROXIES": str(proxies)}, tmp_path / "proxied")
    app.config["WTF_CSRF_ENABLED"] = False
    with app.app_context():
        user = make_user()
        client = app.test_client()
        client.environ_base["HTTP_X_FORWARDED_FOR"] = "192.0.2.1, 203.0.113.9, 198.51.100.7"
        log_in(client, user)
        (event,) = list_events(Filters(action="user.login")).items
        assert event.ip_address == ip_address
        db.session.remove()
        db.engine.dispose()


def test_an_api_change_of_a_status_has_the_address_it_came_from(client, session):
    reservation = make_reservation()
    headers = bearer(make_user(Role.STAFF))
    answer = client.patch(f"/api/v1/reservations/{reservation.id}", json={"status": "confirmed"}, headers=headers)
    assert answer.status_code == 200
    (event,) = list_events(Filters(action="reservation.status")).items
    assert (event.ip_address, dict(event.details)) == ("127.0.0.1", {"old": "pending", "new": "confirmed"})


def test_every_action_that_is_recorded_is_under_a_tab(app):
    models = [mapper.class_ for mapper in Base.registry.mappers if mapper.class_.__module__.startswith(OWN)]
    recorded = {f"{subject_type(model)}.{field}" for model in models for field in recorded_columns(model)}
    recorded |= {f"{subject_type(model)}.create" for model in models if audit.records_creation(model)}
    recorded |= {f"{subject_type(model)}.delete" for model in models if audit.records_deletion(model)}
    for path in [path for folder in ("app", "flask_belfry", "jobs") for path in (ROOT / folder).rglob("*.py")]:
        recorded |= set(RECORD.findall(path.read_text()))
    grouped = [action for _, actions in groups().values() for action in actions]
    assert {"admin.update", "job.retry", "user.address_blocked", "schedule.pause"} <= recorded
    assert recorded - set(grouped) == set(), "add these actions to a tab of GROUPS in app/audit/views.py"
    assert len(grouped) == len(set(grouped))


def test_the_tabs_show_work_items_registrations_and_what_was_done_in_the_panel(client):
    admin = make_user(Role.ADMIN)
    log_in(client, admin)
    task = make_task(title="Tune the piano")
    client.post(f"/work-items/{task.id}/status", data={"status": "IN_PROGRESS"})
    hall = make_resource(name="Hall")
    form = f"/admin/resources/edit/?id={hall.id}"
    client.post(form, data=shown_in(client.get(form).text) | {"capacity": "77"})
    tabs = {
        "work_items": ["work_item.status", "to do → in progress", f"work item #{task.id}"],
        "registrations": ["user.create"],
        "admin": ["admin.update", f"resource #{hall.id}"],
    }
    for group, marks in tabs.items():
        page = client.get(f"/audit?group={group}").text.partition("<tbody>")[2]
        assert [mark for mark in marks if mark not in page] == []
        for other in tabs.keys() - {group}:
            assert tabs[other][0] not in page
    assert "user.login" in client.get("/audit?group=no-such").text
