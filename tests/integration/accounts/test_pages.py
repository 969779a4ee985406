"""Logins and logouts on the pages, and the user of a request."""

from __future__ import annotations

import re

import pytest
from flask import Blueprint, abort, jsonify

from app.accounts import Role, acting_user, change_password, disable, require_role
from flask_belfry.changes import Actor, current_actor, use_actor
from flask_belfry.core.access import public
from tests.reservation_factories import PASSWORD, log_in, make_user

# Nothing here is about the database.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def app(app):
    """With two pages more."""
    probe = Blueprint("probe", __name__)

    @probe.route("/probe", methods=["GET", "POST"])
    @public
    def look():
        user = acting_user()
        origin = current_actor()
        return jsonify(user=user.id, origin=[origin.user_id, origin.request_id])

    @probe.get("/staff-only")
    @require_role(Role.STAFF, "admin")
    def staff_only():
        return "welcome"

    @probe.get("/broken")
    @public
    def broken():
        raise RuntimeError("secret detail")

    @probe.get("/teapot")
    @public
    def teapot():
        abort(418)

    app.register_blueprint(probe)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    return app


@pytest.mark.parametrize("path", ["/forgotten", "/api/v1/forgotten"])
def test_a_route_whose_author_forgot_to_guard_it_is_closed(app, client, path):
    app.add_url_rule(path, "forgotten", lambda: "all that we know")
    answer = client.get(path)
    assert (answer.status_code, answer.headers.get("Location")) == (
        (401, None) if path.startswith("/api") else (302, "/login?next=/forgotten")
    )
    assert "all that we know" not in answer.text
    if not path.startswith("/api"):
        log_in(client, make_user())
        assert client.get(path).text == "all that we know"


def test_a_login_leads_to_where_one_wanted_to_go(client):
    user = make_user(Role.STAFF)
    asked = client.get("/staff-only?a=1")
    assert asked.status_code == 302
    assert asked.location == "/login?next=/staff-only?a%3D1"
    answer = client.post(asked.location, data={"login": user.email, "password": PASSWORD})
    assert (answer.status_code, answer.location) == (302, "/staff-only?a=1")
    assert client.get("/staff-only").text == "welcome"


def test_a_wrong_password_says_so_and_keeps_next(client):
    answer = client.post("/login?next=/probe", data={"login": make_user().email, "password": "nope"})
    assert answer.status_code == 422
    assert "No user has this login and password." in answer.text
    assert 'name="next" value="/probe"' in answer.text


def test_the_login_form_needs_a_csrf_token(app):
    app.config["WTF_CSRF_ENABLED"] = True
    user = make_user()
    client = app.test_client()
    data = {"login": user.email, "password": PASSWORD}
    assert client.post("/login", data=data).status_code == 400
    token = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/login").text)[1]
    assert client.post("/login", data=data | {"csrf_token": token}).status_code == 302
    assert client.post("/logout").status_code == 400


def test_a_logout_ends_the_session_and_is_a_post(client):
    log_in(client, make_user())
    assert client.get("/logout").status_code == 405
    assert client.post("/logout").location == "/login"
    assert client.get("/probe").status_code == 401


@pytest.mark.parametrize("end", [disable, lambda user: change_password(user, "another password")])
def test_disabling_and_a_new_password_end_sessions_at_once(client, session, end):
    user = make_user()
    log_in(client, user)
    assert client.get("/probe").status_code == 200
    end(user)
    session.commit()
    assert client.get("/probe").status_code == 401


def test_the_remember_cookie_outlives_the_session_and_ends_with_it_too(client, session):
    user = make_user()
    client.post("/login", data={"login": user.email, "password": PASSWORD, "remember": "y"})
    client.delete_cookie("session")
    assert client.get("/probe").status_code == 200
    client.delete_cookie("session")
    disable(user)
    session.commit()
    assert client.get("/probe").status_code == 401


def test_a_page_for_staff_is_a_403_for_members(client):
    log_in(client, make_user())
    answer = client.get("/staff-only")
    assert answer.status_code == 403
    assert "This page is for staff and admins only." in answer.text


def test_a_part_that_htmx_asks_for_sends_the_whole_page_to_the_login(client):
    headers = {"HX-Request": "true", "HX-Current-URL": "http://localhost/staff-only?x=1"}
    answer = client.get("/staff-only", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["HX-Redirect"] == "/login?next=/staff-only?x%3D1"


def test_a_page_knows_no_bearer_token(client):
    assert client.get("/probe", headers={"Authorization": "Bearer x"}).status_code == 401


def test_changes_are_the_logged_in_users_and_carry_the_requests_id(client):
    user = make_user()
    log_in(client, user)
    answer = client.post("/probe", headers={"X-Request-Id": "abc-123.DEF"})
    assert answer.json == {"user": user.id, "origin": [user.id, "abc-123.DEF"]}
    assert answer.headers["X-Request-Id"] == "abc-123.DEF"


@pytest.mark.parametrize("given", ["short", "x" * 65, "has space", "semi;colon", ""])
def test_a_request_id_that_is_not_sane_is_replaced(client, given):
    answer = client.get("/login", headers={"X-Request-Id": given})
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["X-Request-Id"])


def test_after_a_request_the_origin_is_what_it_was(client):
    log_in(client, make_user())
    with use_actor(Actor(7, "outer")):
        client.post("/probe")
        assert current_actor() == Actor(7, "outer")


def test_errors_have_a_page_without_details(client):
    answer = client.get("/broken")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert answer.headers["X-Request-Id"] in answer.text
    assert client.get("/teapot").status_code == 418
    missing = client.get("/no-such-page")
    assert missing.status_code == 404
    assert "text/html" in missing.content_type
    assert client.delete("/login").headers["Allow"]


def test_a_page_that_is_not_there_says_it_once(client):
    answer = client.get("/no-such-page")
    assert "This page does not exist." in answer.text
    assert "spelling" not in answer.text


def test_an_error_keeps_the_navigation_for_those_who_are_logged_in(client):
    assert "Log out" not in client.get("/no-such-page").text
    log_in(client, make_user())
    for path in ("/no-such-page", "/staff-only"):
        page = client.get(path).text
        assert "Log out" in page
        assert page.count('id="main"') == 1
    assert "Log out" not in client.get("/broken").text
    assert "Log out" not in client.get("/static/no-such-file.css").text


def test_no_answer_runs_inline_scripts_or_is_framed_by_another_site(client):
    log_in(client, make_user())
    paths = ("/login", "/no-such-page", "/broken", "/reservations/", "/api/docs", "/api/v1/me", "/healthz")
    for path in paths:
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'self'; " in policy, path
        assert "frame-ancestors 'self'; " in policy, path
        assert "unsafe" not in policy, path
        assert headers["X-Frame-Options"] == "SAMEORIGIN", path


def test_nothing_but_static_files_is_kept_by_caches(client):
    log_in(client, make_user())
    for path in ("/probe", "/login", "/no-such-page", "/reservations/", "/api/v1/me", "/static/no-such-file.css"):
        assert client.get(path).headers["Cache-Control"] == "no-store", path
    with client.get("/static/app.css") as answer:
        assert "max-age" in answer.headers["Cache-Control"]
