"""Sessions of pages: rows that can be ended, and how old a login may be for what needs a fresh one."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa
import time_machine
from flask import url_for

from app.accounts import LoginSession, Role, User, issue_pair, prune_sessions, sessions
from app.accounts.sessions import FRESH_FOR
from app.api import UnauthenticatedError
from app.audit.models import AuditEntry
from flask_belfry.core.access import is_public
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from tests.reservation_factories import PASSWORD, bearer, log_in, make_resource, make_user
from tests.url_rules import some_id

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PAGE = "/account/sessions"
NEW_PASSWORD = "another good battery"


@pytest.fixture
def user(app):
    return make_user()


@pytest.fixture
def another_browser(app):
    """Makes clients: each is a browser of its own."""
    return app.test_client


def remembered(client, user):
    answer = client.post("/login", data={"login": user.username, "password": PASSWORD, "remember": "y"})
    assert answer.status_code == 302
    return client


def cookies(client) -> dict[str, str]:
    return {name: cookie.value for name in ("session", "remember_token") if (cookie := client.get_cookie(name))}


def copy(client, other, *names: str) -> None:
    for name in names:
        other.set_cookie(name, cookies(client)[name])


def is_in(client) -> bool:
    return client.get("/account").status_code == 200


def test_a_logout_ends_the_session_wherever_its_cookies_were_copied(client, another_browser, user, session):
    remembered(client, user)
    with_session, with_both, elsewhere = another_browser(), another_browser(), log_in(another_browser(), user)
    with_remembered = another_browser()
    copy(client, with_session, "session")
    copy(client, with_remembered, "remember_token")
    copy(client, with_both, "session", "remember_token")
    assert all(map(is_in, (with_session, with_remembered, with_both)))
    client.post("/logout")
    assert not any(map(is_in, (client, with_session, with_remembered, with_both)))
    assert is_in(elsewhere)
    assert session.scalar(sa.select(sa.func.count()).select_from(LoginSession)) == 1


def test_a_new_password_ends_all_sessions_but_the_one_that_chose_it(client, another_browser, user):
    remembered(client, user)
    other, stolen = remembered(another_browser(), user), another_browser()
    copy(client, stolen, "session", "remember_token")
    form = {"password": PASSWORD, "new_password": NEW_PASSWORD, "new_password_confirm": NEW_PASSWORD}
    assert client.post("/account/password", data=form).status_code == 302
    assert is_in(client)
    assert not any(map(is_in, (other, stolen)))
    client.delete_cookie("session")
    assert is_in(client), "the browser stays remembered"


@ON_SQLITE
def test_no_other_site_and_no_script_gets_the_cookies_of_a_login(settings, request):
    settings["PUBLIC_URL"] = "https://desk.example.org"
    client = request.getfixturevalue("client")
    form = {"login": make_user().username, "password": PASSWORD, "remember": "y"}
    assert client.post("/login", data=form, base_url="https://desk.example.org").status_code == 302
    for name in ("session", "remember_token"):
        cookie = client.get_cookie(name, domain="desk.example.org")
        assert (cookie.same_site, cookie.http_only, cookie.secure) == ("Lax", True, True), name


@ON_SQLITE
def test_a_session_and_its_remember_cookie_end_thirty_days_after_the_login(app, client, user, session):
    with time_machine.travel("2030-01-01T12:00:00Z", tick=False) as clock:
        remembered(client, user)
        clock.shift(timedelta(days=app.config["LOGIN_SESSION_DAYS"], seconds=-1))
        assert prune_sessions(session) == 0
        session.commit()
        assert is_in(client)
        clock.shift(1)
        assert not is_in(client)
        client.delete_cookie("session")
        assert not is_in(client)
        assert prune_sessions(session) == 1
    cookie = remembered(client, user).get_cookie("remember_token")
    assert utc_now() + timedelta(days=29) < cookie.expires < utc_now() + timedelta(days=31)


@ON_SQLITE
def test_a_login_takes_over_no_id_no_csrf_secret_and_no_session_of_the_browser(app, client, another_browser, user):
    app.config["WTF_CSRF_ENABLED"] = True
    client.get("/login")
    with client.session_transaction() as before:
        secret = before["csrf_token"]
        before["tf_totp_secret"] = "planted"
    app.config["WTF_CSRF_ENABLED"] = False
    remembered(client, user)
    with client.session_transaction() as after:
        first = after["_user_id"]
        assert after.get("csrf_token") != secret
        assert "tf_totp_secret" not in after
    old = another_browser()
    copy(client, old, "session", "remember_token")
    client.delete_cookie("session")
    client.delete_cookie("remember_token")
    copy(old, client, "remember_token")
    registration = {"username": "grace", "email": "grace@example.org", "password": PASSWORD}
    assert client.post("/register", data=registration).status_code == 302
    with client.session_transaction() as registered:
        assert registered["_user_id"] != first
    assert not is_in(old), "the login that this browser had before has ended"


def test_a_login_that_was_under_way_when_everything_ended_is_refused(app, user, session):
    assert user.fs_uniquifier  # loaded by the login
    with db.engine.begin() as meanwhile:
        meanwhile.execute(sa.update(User.__table__).values(fs_uniquifier="another"))
    with app.test_request_context(), pytest.raises(UnauthenticatedError):
        sessions.begin(user)
    session.rollback()
    assert session.scalar(sa.select(sa.func.count()).select_from(LoginSession)) == 0


def test_a_user_sees_and_ends_their_own_sessions(client, another_browser, user, session):
    phone = another_browser()
    phone.environ_base["HTTP_USER_AGENT"] = "Mozilla/5.0 (X11; Linux) Firefox/140.0"
    log_in(phone, user)
    log_in(client, user)
    stranger = log_in(another_browser(), make_user())
    page = client.get(PAGE).text
    assert page.count('id="session-') == 2
    assert "Firefox on Linux" in page
    id = session.scalar(sa.select(sa.func.min(LoginSession.id)))
    assert stranger.post(f"{PAGE}/{id}/end").status_code == 404
    assert client.post(f"{PAGE}/{id}/end").status_code == 303
    assert (is_in(phone), is_in(client), is_in(stranger)) == (False, True, True)
    assert session.scalar(sa.select(AuditEntry.user_id).where(AuditEntry.action == "user.session_ended")) == user.id


@ON_SQLITE
def test_all_other_logins_end_together_and_those_of_programs_too(client, another_browser, user):
    phone, program = log_in(another_browser(), user), bearer(user)
    stranger = log_in(another_browser(), make_user())
    log_in(client, user)
    assert client.post(f"{PAGE}/end-others").status_code == 303
    assert (is_in(phone), is_in(client), is_in(stranger)) == (False, True, True)
    assert client.get("/api/v1/me", headers=program).status_code == 401


@ON_SQLITE
def test_a_session_costs_one_query_and_its_use_is_written_once_in_a_while(app, client, user, session, statements):
    with time_machine.travel("2030-01-01T12:00:00Z", tick=False) as clock:
        log_in(client, user)
        logged_in_at = utc_now()
        statements.clear()
        client.get("/account/delete")
        assert sum("login_sessions" in statement for statement in statements) == 1
        assert not any("FROM users WHERE" in statement for statement in statements)
        assert session.scalar(sa.select(LoginSession.last_seen_at)) == logged_in_at
        clock.shift(timedelta(hours=1))
        assert is_in(client)
        session.rollback()
        assert session.scalar(sa.select(LoginSession.last_seen_at)) == utc_now()


# ── A fresh login ────────────────────────────────────────────────────────────────────────────────────────────────

NEEDS_FRESH = (
    ("POST", "/account/tokens"),
    ("POST", "/account/export"),
    ("GET", "/account/two-factor"),
    ("POST", "/account/two-factor"),
    ("POST", "/account/two-factor/a-state"),
    ("GET", "/account/recovery-codes"),
    ("POST", "/account/recovery-codes"),
    ("GET", "/account/addresses"),
    ("GET", "/admin/users/new/"),
    ("POST", "/admin/users/new/"),
    ("GET", "/admin/users/export/csv/"),
    ("POST", "/admin/resources/edit/?id=1"),
    ("POST", "/admin/resources/delete/?id=1"),
    ("POST", "/admin/resources/action/"),
)


@ON_SQLITE
@pytest.mark.parametrize(("method", "path"), NEEDS_FRESH)
def test_what_needs_a_fresh_login_asks_for_the_password(client, method, path):
    make_resource()
    with time_machine.travel("2030-01-01T12:00:00Z", tick=False) as clock:
        log_in(client, make_user(Role.ADMIN))
        clock.shift(FRESH_FOR)
        answer = client.open(path, method=method, headers={"Referer": "http://localhost/account?x=1"})
        assert answer.status_code == 302
        way_back = path if method == "GET" else "/account?x%3D1"
        assert answer.location == f"/account/verify?next={way_back}"


@ON_SQLITE
def test_using_a_session_does_not_keep_its_login_fresh(client, user):
    with time_machine.travel("2030-01-01T12:00:00Z", tick=False) as clock:
        log_in(client, user)
        for _ in range(2):
            clock.shift(FRESH_FOR / 2 - timedelta(seconds=1))
            assert client.get("/account/two-factor").status_code == 200
            assert client.get("/account/addresses").status_code == 200
        clock.shift(2)
        assert client.get("/account/two-factor").status_code == 302
        assert client.get("/account/addresses").status_code == 302


@ON_SQLITE
@pytest.mark.parametrize("leftover", [False, True])
def test_a_remember_cookie_is_never_a_fresh_login(client, another_browser, user, session, leftover):
    remembered(client, user)
    if leftover:  # a fresh cookie, of a session that has ended
        other = log_in(another_browser(), make_user())
        copy(other, client, "session")
        session.execute(sa.delete(LoginSession).where(LoginSession.user_id != user.id))
        session.commit()
    else:
        client.delete_cookie("session")
    assert is_in(client)
    for path in ("/account/two-factor", "/account/addresses"):
        assert client.get(path).status_code == 302
    client.post("/account/verify", data={"password": PASSWORD})
    assert client.get("/account/two-factor").status_code == 200


@ON_SQLITE
@pytest.mark.parametrize(("method", "path"), [("POST", "/me/tokens"), ("GET", "/me/export")])
def test_the_api_refuses_what_needs_a_fresh_login_to_an_old_one(client, user, method, path):
    body = {"name": "script", "scopes": ["profile:read"]} if method == "POST" else None
    with time_machine.travel("2030-01-01T12:00:00Z", tick=False) as clock:
        pair = issue_pair(user)
        db.session.commit()
        clock.shift(timedelta(minutes=10))
        headers = {"Authorization": f"Bearer {pair.access_token}"}
        assert client.open(f"/api/v1{path}", method=method, json=body, headers=headers).status_code in (200, 201)
        clock.shift(FRESH_FOR - timedelta(minutes=10))
        renewed = client.post("/api/v1/auth/refresh", json={"refresh_token": pair.refresh_token}).json
        headers = {"Authorization": f"Bearer {renewed['access_token']}"}
        refused = client.open(f"/api/v1{path}", method=method, json=body, headers=headers)
        assert refused.status_code == 403
        assert "30 minutes" in refused.json["message"]


# ── Before and at the confirmation ───────────────────────────────────────────────────────────────────────────────


def closed_routes(app, *, is_api: bool) -> list[tuple[str, str, str]]:
    """The endpoint, method and path of every route that is not public."""
    with app.test_request_context():
        return [
            (rule.endpoint, method, url_for(rule.endpoint, **{name: some_id(rule, name) for name in rule.arguments}))
            for rule in app.url_map.iter_rules()
            if rule.rule.startswith("/api/") is is_api and not is_public(app.view_functions[rule.endpoint])
            for method in sorted(rule.methods - {"HEAD", "OPTIONS"})
        ]


@ON_SQLITE
def test_an_unconfirmed_user_reaches_no_page_that_is_not_public(app, client):
    log_in(client, make_user(Role.ADMIN, confirmed_at=None))
    closed = closed_routes(app, is_api=False)
    assert len(closed) > 100
    for endpoint, method, path in closed:
        answer = client.open(path, method=method)
        assert (answer.status_code, answer.location) == (302, "/confirm"), (endpoint, method)
    assert client.post("/resend-confirmation", data={"email": "a@example.org"}).status_code == 302
    assert client.post("/logout").location == "/login"


@ON_SQLITE
def test_an_unconfirmed_user_reaches_no_endpoint_but_the_logout(app, client):
    headers = bearer(make_user(Role.ADMIN, confirmed_at=None))
    closed = closed_routes(app, is_api=True)
    assert len(closed) > 30
    for endpoint, method, path in closed:
        if endpoint != "api_accounts.logout":
            assert client.open(path, method=method, headers=headers, json={}).status_code == 403, (endpoint, method)
    assert client.post("/api/v1/auth/logout", headers=headers).status_code == 204
    assert client.get("/api/v1/me", headers=headers).status_code == 401
