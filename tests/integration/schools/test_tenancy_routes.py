"""Every page and endpoint, asked for by people of another school: what is not theirs is not there.

The table says of each route who may come in, and how it is asked for a row of another school. A route that is missing
from it fails a test: its author lists here what it shows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from html import unescape
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from app.accounts import LoginAddress, LoginSession, Role, User, issue_personal_token
from app.admin.views import views as panel_views
from app.api import READING_METHODS
from app.reservations import ReservationStatus
from flask_belfry.db import Base
from flask_belfry.db.tenancy import OfSchool, Tenant
from flask_belfry.mail import EmailMessage
from flask_belfry.outbox import JobRecord, JobState
from tests.reservation_factories import (
    bearer,
    log_in,
    make_reservation,
    make_resource,
    make_school,
    make_user,
    tomorrow,
)
from tests.tenancy import ADMIN, EVERYBODY, OPERATOR, STAFF, USER, Route, many, one

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def panel_routes() -> dict[tuple[str, str], Route]:
    """All that Flask-Admin makes of the panel's views: for admins, who see all schools."""
    return {("admin.index", "GET"): many(ADMIN, "/admin/")} | {
        (f"{view.endpoint}.{name}", method): many(ADMIN, f"/admin/{view.url}{path}?id=1")
        for view in panel_views()
        for path, name, methods in view._urls
        for method in methods
    }


SCHEDULE_ACTIONS = (
    *(("pause", "pause"), ("resume", "resume"), ("run", "run")),
    *(("update", "edit"), ("delete", "delete")),
)
RESERVATION, API_RESERVATION = "/reservations/{reservation}", "/api/v1/reservations/{reservation}"
FORM = {"start_time": "2031-01-02T10:00", "duration_minutes": 60, "party_size": 1}
# One user's only, whatever the role: a developer's inbox, tokens, and what one has said.
ONES_OWN = (
    *("inbox.message", "inbox.part", "notification_inbox.show", "notification_inbox.read"),
    "api_accounts.get_token",
    "work_items.edit_comment",
)
POST_FORM = re.compile(r'<form[^>]*method="post"[^>]*action="([^"]+)"')
LINK_TO_ROW = re.compile(r'href="/(jobs|mails|reservations|work-items|students|classes)/[0-9a-f-]{1,36}"')


ROUTES: dict[tuple[str, str], Route] = {
    ("static", "GET"): Route(EVERYBODY),
    ("health.alive", "GET"): many(EVERYBODY, "/healthz"),
    ("health.ready", "GET"): many(EVERYBODY, "/readyz"),
    ("api-docs.openapi_json", "GET"): many(EVERYBODY, "/api/openapi.json"),
    ("api_docs.show", "GET"): many(EVERYBODY, "/api/docs"),
    ("api_docs.operations", "GET"): many(EVERYBODY, "/api/docs/operations"),
    # Logins. They show only the user whose password, code or link was sent.
    ("security.login", "GET"): many(EVERYBODY, "/login"),
    **{("security." + name, "POST"): Route(EVERYBODY) for name in ("login", "logout")},
    **{
        ("security." + name, method): Route(EVERYBODY)
        for name in ("two_factor_token_validation", "two_factor_rescue", "tf_select", "mf_recovery")
        for method in ("GET", "POST")
    },
    ("accounts.register", "GET"): many(EVERYBODY, "/register"),
    ("accounts.forgot_password", "GET"): many(EVERYBODY, "/forgot-password"),
    **{("addresses.answer_link", method): Route(EVERYBODY) for method in ("GET", "POST")},
    # The links in mails, which show the kind of mail and not the user, and the messages of mail servers.
    ("unsubscribing.ask", "GET"): Route(EVERYBODY),
    **{("unsubscribing." + name, "POST"): Route(EVERYBODY) for name in ("unsubscribe", "subscribe")},
    ("bounces.receive", "POST"): Route(EVERYBODY),
    **{("accounts." + name, "GET"): Route(EVERYBODY) for name in ("confirm", "confirm_by_link", "reset_password")},
    **{
        ("accounts." + name, "POST"): Route(EVERYBODY)
        for name in (
            *("register", "confirm", "confirm_by_link", "resend_confirmation", "forgot_password", "reset_password"),
        )
    },
    **{
        ("api_accounts." + name, "POST"): Route(EVERYBODY)
        for name in (
            *("register", "confirm", "resend_confirmation", "request_password_reset", "reset_password", "login"),
            "refresh",
        )
    },
    ("api_accounts.logout", "POST"): Route(USER),
    # One's own.
    ("accounts.start", "GET"): Route(USER, ("/start",), {}, 302),
    ("api_profile.me", "GET"): many(USER, "/api/v1/me"),
    ("api_profile.change_me", "PATCH"): Route(USER, ("/api/v1/me",), {}, 200),
    ("api_accounts.export_me", "GET"): many(USER, "/api/v1/me/export"),
    ("api_accounts.delete_me", "DELETE"): Route(USER),
    ("profile.show_profile", "GET"): many(USER, "/account"),
    ("profile.update", "POST"): Route(USER),
    ("profile.export", "POST"): Route(USER, ("/account/export",), {}, 200),
    ("profile.ask_about_deletion", "GET"): many(USER, "/account/delete"),
    ("profile.delete", "POST"): Route(USER),
    ("api_accounts.list_tokens", "GET"): many(USER, "/api/v1/me/tokens"),
    ("api_accounts.create_token", "POST"): Route(USER),
    ("api_accounts.get_token", "GET"): one(USER, "/api/v1/me/tokens/{token}"),
    ("api_accounts.revoke_token", "DELETE"): one(USER, "/api/v1/me/tokens/{token}"),
    ("tokens.list_", "GET"): many(USER, "/account/tokens"),
    ("tokens.create", "POST"): Route(USER),
    ("tokens.revoke_token", "POST"): one(USER, "/account/tokens/{token}/revoke"),
    ("sessions.list_sessions", "GET"): many(USER, "/account/sessions"),
    ("sessions.end_session", "POST"): one(USER, "/account/sessions/{session_id}/end"),
    ("sessions.end_others", "POST"): Route(USER),
    ("addresses.list_", "GET"): many(USER, "/account/addresses"),
    ("addresses.trust", "POST"): one(USER, "/account/addresses/{login_address_id}/trust"),
    ("addresses.block", "POST"): one(USER, "/account/addresses/{login_address_id}/block"),
    ("addresses.forget", "POST"): one(USER, "/account/addresses/{login_address_id}/forget"),
    ("security.change_password", "GET"): many(USER, "/account/password"),
    ("security.verify", "GET"): many(USER, "/account/verify"),
    ("security.two_factor_setup", "GET"): many(USER, "/account/two-factor"),
    ("security.mf_recovery_codes", "GET"): many(USER, "/account/recovery-codes"),
    **{
        ("security." + name, "POST"): Route(USER)
        for name in (
            *("change_password", "verify", "two_factor_setup", "two_factor_setup_validate", "mf_recovery_codes"),
        )
    },
    ("index", "GET"): many(USER, "/"),
    ("reservations.list_", "GET"): many(
        USER,
        "/reservations/",
        "/reservations/?text={name}",
        "/reservations/?text=%23{reservation}",
        "/reservations/?status=confirmed",
    ),
    ("reservations.day", "GET"): many(USER, "/reservations/day/{day}"),
    ("reservations.create", "GET"): many(USER, "/reservations/new"),
    ("reservations.create", "POST"): Route(USER, ("/reservations/new",), {**FORM, "resource": "{resource}"}, 422),
    ("reservations.detail", "GET"): one(USER, RESERVATION),
    ("reservations.history", "GET"): one(USER, f"{RESERVATION}/history"),
    ("reservations.edit", "GET"): one(USER, f"{RESERVATION}/edit"),
    ("reservations.edit", "POST"): one(USER, f"{RESERVATION}/edit", note="ours now"),
    ("reservations.set_status", "POST"): one(USER, f"{RESERVATION}/status", status="cancelled"),
    ("api_reservations.list_reservations", "GET"): many(
        USER,
        "/api/v1/reservations?limit=100",
        "/api/v1/reservations?customer_id={customer}",
        "/api/v1/reservations?resource_id={resource}",
        "/api/v1/reservations?text={name}",
    ),
    ("api_reservations.list_resources", "GET"): many(USER, "/api/v1/resources?limit=100"),
    ("api_reservations.create_reservation", "POST"): Route(
        USER, ("/api/v1/reservations",), {"start_time": "2031-01-02T10:00:00Z", "resource_id": "{resource}"}, 422
    ),
    ("api_reservations.get_reservation", "GET"): one(USER, API_RESERVATION),
    ("api_reservations.change_reservation", "PATCH"): one(USER, API_RESERVATION, note="ours now", status="cancelled"),
    ("api_reservations.delete_reservation", "DELETE"): one(USER, API_RESERVATION),
    ("operations.jobs", "GET"): many(
        STAFF, "/jobs/", "/jobs/?text={job}", "/jobs/?state=pending", "/jobs/?q=name:mail.*+-state:failed"
    ),
    ("operations.jobs_live", "GET"): many(STAFF, "/jobs/live", "/jobs/live?text={job}"),
    ("operations.job", "GET"): one(STAFF, "/jobs/{job}"),
    ("operations.job_live", "GET"): one(STAFF, "/jobs/{job}/live"),
    ("operations.retry", "POST"): one(OPERATOR, "/jobs/{failed_job}/retry"),
    ("operations.cancel", "POST"): one(OPERATOR, "/jobs/{job}/cancel"),
    # The code's own, alike for all schools, and those that were made for the user's school.
    ("schedule.list_", "GET"): many(STAFF, "/schedule", "/schedule?name=maintenance", "/schedule?name=custom"),
    ("schedule.new", "GET"): many(ADMIN, "/schedule/new", "/schedule/new?job=maintenance.prune"),
    ("schedule.create", "POST"): many(ADMIN, "/schedule/new"),
    ("schedule.preview", "GET"): many(ADMIN, "/schedule/preview?when=every&count=2&unit=hours"),
    **{("schedule." + name, "POST"): many(ADMIN, f"/schedule/no-such/{path}") for name, path in SCHEDULE_ACTIONS},
    ("schedule.edit", "GET"): many(ADMIN, "/schedule/no-such/edit"),
    ("mail.list_", "GET"): many(
        STAFF,
        "/mails",
        "/mails?text={address}",
        "/mails?text={mail}",
        "/mails?state=queued",
        "/mails?q=kind:reservation-* subject:reservation/{reservation}",
    ),
    ("mail.completions", "GET"): many(STAFF, "/mails/completions?q=kind:"),
    ("mail.resend_matching", "POST"): Route(OPERATOR, ("/mails/resend",), {"q": "state:failed,skipped"}),
    ("mail.detail", "GET"): one(STAFF, "/mails/{mail}"),
    ("mail.list_live", "GET"): many(STAFF, "/mails/live", "/mails/live?text={address}"),
    ("mail.detail_live", "GET"): one(STAFF, "/mails/{mail}/live"),
    ("mail.message_html", "GET"): one(STAFF, "/mails/{mail}/html"),
    ("mail.message_part", "GET"): Route(STAFF, ("/mails/{mail}/text", "/mails/{mail}/source"), {}, 404),
    ("mail.resend", "POST"): one(OPERATOR, "/mails/{mail}/resend"),
    ("mail.confirm_sent", "POST"): one(OPERATOR, "/mails/{mail}/confirm-sent"),
    ("mail.previews", "GET"): many(STAFF, "/mails/previews"),
    ("mail.preview", "GET"): many(
        STAFF, "/mails/previews/reservation-status/html", "/mails/previews/reservation-status/source"
    ),
    ("audit.list_", "GET"): many(
        STAFF, "/audit", "/audit?user={address}", "/audit?subject=reservation/{reservation}", "/audit?action=job.cancel"
    ),
    # Catches the mails of one developer's machine; production has none.
    ("inbox.list_", "GET"): Route(STAFF, ("/dev/inbox",), {}, 200),
    ("inbox.message", "GET"): one(STAFF, "/dev/inbox/20251125T143005.000001Z-0123abcd"),
    ("inbox.part", "GET"): one(STAFF, "/dev/inbox/20251125T143005.000001Z-0123abcd/html"),
    **panel_routes(),
}
# The slices' own files.
PARTS = [
    import_module(f"tests.routes.{path.stem}") for path in sorted((Path(__file__).parents[2] / "routes").glob("*.py"))
]
for part in PARTS:
    ROUTES |= part.ROUTES


def rows_of_parts(user: User) -> dict[str, int]:
    """What a user has of each slice that has a file of its own."""
    return {name: id for part in PARTS for name, id in part.make_rows(user).items()}


@pytest.fixture
def ids(session) -> dict[str, Any]:
    """What another school has: a confirmed reservation with its mail and its jobs, one of them failed; work items."""
    school = make_school()
    customer = make_user(
        school_id=school.id, name="Zarathustra", email="zarathustra@example.org", username="zarathustra"
    )
    room = make_resource(name="Zarathustras hall", school_id=school.id)
    row = make_reservation(customer, resource=room, note="Zarathustras note")
    row.status = ReservationStatus.CONFIRMED
    session.commit()
    pending, failed = session.scalars(sa.select(JobRecord).order_by(JobRecord.id)).all()
    failed.state, failed.error_message = JobState.FAILED, "Zarathustras error"
    session.commit()
    mail = session.scalars(sa.select(EmailMessage).where(EmailMessage.kind == "reservation-status")).one()
    found = {"reservation": row.id, "resource": room.id, "customer": customer.id, "mail": mail.id, "job": pending.id}
    found |= {"failed_job": failed.id, "name": "Zarathustra", "address": customer.email}
    _, token = issue_personal_token(customer, "Zarathustras token", ["read"])
    session.commit()
    found |= {"day": tomorrow().date().isoformat(), "token": token.id}
    login = LoginSession(user=customer, hash="of another school")
    session.add(login)
    session.commit()
    found["session_id"] = login.id
    found["login_address_id"] = session.scalars(
        sa.select(LoginAddress.id).where(LoginAddress.user_id == customer.id)
    ).one()
    found |= rows_of_parts(customer)
    session.expunge_all()
    return found


def filled(value: Any, ids: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [filled(each, ids) for each in value]
    if not isinstance(value, str):
        return value
    text = value.format(**ids)
    return int(text) if text.isdecimal() and value.startswith("{") else text


def ask(client: FlaskClient, method: str, route: Route, path: str, ids: Mapping[str, Any], headers: Any = None) -> Any:
    target, sends = filled(path, ids), {name: filled(value, ids) for name, value in route.sends.items()}
    if not target.startswith("/api/"):
        return client.open(target, method=method, data=sends)
    body = {"json": sends} if method in ("POST", "PATCH") else {}
    return client.open(target, method=method, headers=headers, **body)


def snapshot(session) -> list[Any]:
    session.rollback()
    models = {mapper.class_ for mapper in Base.registry.mappers if issubclass(mapper.class_, OfSchool)}
    tables = sorted(
        {model.__table__ for model in models | {User, LoginAddress, JobRecord, EmailMessage}},
        key=lambda table: table.name,
    )
    return [session.execute(sa.select(table).order_by(*table.primary_key.columns)).all() for table in tables]


def whole_database(session) -> Mapping[str, list[Any]]:
    """Return all rows but those that record that a login or a token was used."""
    session.rollback()
    # Other tests may have made models of their own, whose tables are not here.
    there = sa.inspect(session.connection()).get_table_names()
    return {
        table.name: session.execute(sa.select(table).order_by(*table.primary_key.columns)).all()
        for table in Base.metadata.sorted_tables
        if table.name in there and table.name not in ("login_sessions", "access_tokens")
    }


def test_every_route_is_in_the_table(app: Flask):
    there = {
        (rule.endpoint, method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        # Routes that tests add.
        if app.view_functions[rule.endpoint].__module__.partition(".")[0] != "tests"
    }
    assert there - ROUTES.keys() == set(), (
        "each of these routes needs a line in ROUTES of the slice's file in tests/routes, as those of work_items.py"
    )
    assert ROUTES.keys() - there == set(), "these are lines of routes that do not exist any more"


def test_a_user_without_permission_is_refused_before_anything_is_read(app, session, client, ids):
    before = snapshot(session)
    user = make_user()
    member, headers = log_in(app.test_client(), user), bearer(user)
    staff_user = make_user(Role.STAFF)
    staff, staff_headers = log_in(app.test_client(), staff_user), bearer(staff_user)
    for each in (headers, staff_headers):
        member.get("/api/v1/me", headers=each)  # once a minute it is recorded that the token was used
    before = snapshot(session)
    for (endpoint, method), route in ROUTES.items():
        for path in route.paths:
            answer = ask(client, method, route, path, ids)
            if route.access == EVERYBODY:
                assert answer.status_code in (200, 503), endpoint
            elif path.startswith("/api/"):
                assert answer.status_code == 401, endpoint
            else:
                assert answer.status_code == 302, endpoint
                assert answer.location.startswith("/login"), endpoint
            if route.access in (STAFF, OPERATOR, ADMIN):
                assert ask(member, method, route, path, ids, headers).status_code == 403, endpoint
            if route.access == ADMIN:
                assert ask(staff, method, route, path, ids, staff_headers).status_code == 403, endpoint
    assert snapshot(session) == before


def is_of_the_job_system(app: Flask, endpoint: str) -> bool:
    package = app.view_functions[endpoint].__module__.split(".")[:2]
    return package[0] == "flask_belfry" and package[1] != "core"  # whose wrappers are around Flask-Security's views


def test_jobs_and_mails_are_changed_by_operators_and_admins_only(app):
    changing = {
        endpoint: route.access
        for (endpoint, method), route in ROUTES.items()
        if method not in READING_METHODS and is_of_the_job_system(app, endpoint)
    }
    assert changing.pop("bounces.receive") == EVERYBODY  # it checks a token of mail servers
    assert len(changing) > 30
    assert set(changing.values()) == {OPERATOR, ADMIN}, changing


def test_a_read_only_role_changes_nothing_by_any_request(app, session, client, ids):
    school_id = session.scalar(sa.select(User.school_id).where(User.id == ids["customer"]))
    reader = make_user(Role.STAFF, school_id=school_id, may_operate=False)
    personal_token = issue_personal_token(reader, "for everything", ["write"])[0]
    session.commit()
    client, kinds = log_in(client, reader), (bearer(reader), {"Authorization": f"Bearer {personal_token}"})
    urls, before = app.url_map.bind("localhost"), whole_database(session)
    for (endpoint, method), route in ROUTES.items():
        if not is_of_the_job_system(app, endpoint) or route.access == EVERYBODY:
            continue
        for path in route.paths:
            for headers in kinds if path.startswith("/api/") else (None,):
                answer = ask(client, method, route, path, ids, headers)
                if route.access in (OPERATOR, ADMIN):
                    assert answer.status_code == 403, (endpoint, path)
                else:
                    assert method in READING_METHODS, endpoint
                    assert answer.status_code == (404 if endpoint in ONES_OWN else 200), (endpoint, answer.status_code)
                for action in POST_FORM.findall(answer.text):
                    of_form = urls.match(unescape(action).partition("?")[0], method="POST")[0]
                    assert ROUTES[of_form, "POST"].access in (EVERYBODY, USER), (endpoint, action)
    assert whole_database(session) == before


@pytest.mark.parametrize("role", [Role.MEMBER, Role.STAFF])
def test_of_another_school_nothing_is_found_and_nothing_is_changed(session, client, ids, role):
    user = make_user(role)
    client, headers = log_in(client, user), bearer(user)
    client.get("/api/v1/me", headers=headers)  # once a minute it is recorded that the token was used
    before = snapshot(session)
    for (endpoint, method), route in ROUTES.items():
        for path in route.paths:
            if route.access == ADMIN or (route.access in (STAFF, OPERATOR) and role is not Role.STAFF):
                continue
            answer = ask(client, method, route, path, ids, headers)
            if route.status is not None:
                assert answer.status_code == route.status, (endpoint, answer.status_code)
            # The search field contains the search text.
            text = re.sub(r"<input[^>]*>|<a [^>]*>|hx-get=\"[^\"]*\"", "", answer.text)
            text = re.sub(r"<p class=\"active-filters\">.*?</p>", "", text)
            assert "zarathustra" not in text.lower(), (endpoint, path)
            assert str(ids["failed_job"]) not in text, (endpoint, path)
            assert not LINK_TO_ROW.search(answer.text), (endpoint, path)
    assert snapshot(session) == before


def test_an_admin_sees_all_schools(session, client, ids):
    user = make_user(Role.ADMIN)
    client, headers = log_in(client, user), bearer(user)
    for (endpoint, method), route in ROUTES.items():
        if method == "GET" and route.status == 404 and endpoint not in ONES_OWN:
            for path in route.paths:
                assert ask(client, method, route, path, ids, headers).status_code == 200, endpoint


@pytest.mark.parametrize(("school", "status"), [("customers", 201), ("other", 422)])
def test_an_admin_books_for_a_customer_what_is_of_the_customers_school(client, ids, school, status):
    headers = bearer(make_user(Role.ADMIN))
    resource_id = ids["resource"] if school == "customers" else make_resource().id
    body = {"start_time": "2031-01-02T10:00:00Z", "resource_id": resource_id, "customer_id": ids["customer"]}
    assert client.post("/api/v1/reservations", json=body, headers=headers).status_code == status


def test_staff_cannot_book_for_users_of_another_school(client, ids):
    staff = make_user(Role.STAFF)
    body = {"start_time": "2031-01-02T10:00:00Z", "customer_id": ids["customer"]}
    answer = client.post("/api/v1/reservations", json=body, headers=bearer(staff))
    assert (answer.status_code, list(answer.json["errors"])) == (422, ["customer_id"])
    form = {**FORM, "customer": ids["address"]}
    answer = log_in(client, staff).post("/reservations/new", data=form)
    assert answer.status_code == 422
    assert "No user has this username or email address." in answer.text


# Each names one table with rows of schools, and does not ask for a school.
UNSCOPED = (
    # Who a user is.
    r"SELECT users\.\S+( AS \S+)?, .* FROM users WHERE users\.(id|fs_uniquifier) = \?$",
    r"SELECT .* FROM access_tokens JOIN users ",
    r"SELECT .* FROM login_sessions JOIN users ",
    # The number of the system's jobs, which are no school's, and the last run of a periodic job, which is the system's.
    r"(WITH matching AS \()?SELECT (count\(\*\) .*|job_records\.id( AS id)?) FROM job_records INDEXED BY \w+ WHERE "
    r".*\bschool_id IS NULL\b",
    r"SELECT .* FROM job_records WHERE job_records\.subject_type = \? AND job_records\.subject_id = \? "
    r"ORDER BY job_records\.id DESC LIMIT \? OFFSET \?$",
    # Where a search stops, by the number of rows of all schools that it has to read: the id is only compared.
    r"SELECT (job_records|email_messages)\.id FROM \1 .*ORDER BY \1\.id DESC LIMIT \? OFFSET \?$",
    # What those who did something are called.
    r"SELECT users\.id, users\.name FROM users WHERE users\.id IN ",
    # What is kept of oneself, by one's own id and address, whatever the school one was in then.
    r"SELECT .* FROM (\w+) WHERE \1\.user_id = \? ORDER BY \1\.id$",
    r"SELECT .* FROM reservations LEFT OUTER JOIN resources ON \S+ = \S+ WHERE reservations\.customer_id = \? ORDER BY",
    r"SELECT .* FROM email_messages WHERE email_messages\.recipient = \? OR .*subject_id = \? ORDER BY",
    *(pattern for part in PARTS for pattern in part.UNSCOPED),
)
TENANTS = [mapper.local_table.name for mapper in Base.registry.mappers if issubclass(mapper.class_, Tenant)]
NAMED = re.compile(rf"\b(?:FROM|JOIN) ({'|'.join(TENANTS)})( AS \w+)?\b")


def test_every_statement_of_a_request_names_the_school(session, client, statements):
    customer = make_user()
    row = make_reservation(customer, resource=make_resource())
    job, mail = session.scalar(sa.select(JobRecord.id)), session.scalar(sa.select(EmailMessage.id))
    ids = {"reservation": row.id, "resource": row.resource_id, "customer": customer.id, "mail": mail, "job": job}
    ids |= {"failed_job": job, "name": "name", "address": customer.email, "day": tomorrow().date().isoformat()}
    ids["token"] = ids["login_address_id"] = ids["session_id"] = 0
    user = make_user(Role.STAFF)
    ids |= rows_of_parts(user)
    client, headers = log_in(client, user), bearer(user)
    seen = 0
    for (_, method), route in ROUTES.items():
        for path in route.paths:
            if method != "GET" or route.access in (EVERYBODY, ADMIN):
                continue
            session.expunge_all()
            statements.clear()
            answer = ask(client, method, route, path, ids, headers)
            assert answer.status_code in (200, 302, 404)
            for statement in map(" ".join, map(str.split, statements)):
                if any(re.match(pattern, statement) for pattern in UNSCOPED):
                    continue
                # Each part of a compound statement names the school.
                named = Counter(alias.removeprefix(" AS ") or table for table, alias in NAMED.findall(statement))
                for name, times in named.items():
                    seen += 1
                    assert statement.count(f"{name}.school_id = ?") >= times, statement
    assert seen > 50
