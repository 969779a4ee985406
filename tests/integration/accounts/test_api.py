"""Tokens, and the shape of the API's answers."""

from __future__ import annotations

import pytest

from app.accounts import Role, disable
from tests.reservation_factories import PASSWORD, bearer, log_in, make_user

# Nothing here is about the database.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

LOGIN = "/api/v1/auth/login"


def is_error(answer, code: int) -> bool:
    """Whether the answer is an error of exactly the documented shape."""
    body = answer.json
    return (
        answer.status_code == code == body["code"]
        and body.keys() == {"code", "status", "message", "errors"}
        and bool(body["status"] and body["message"])
        and all(isinstance(said, list) for said in body["errors"].values())
    )


@pytest.mark.parametrize("field", ["username", "email"])
def test_a_login_gives_a_token_that_opens_the_api(client, field):
    user = make_user(Role.STAFF, time_zone="Europe/Berlin")
    answer = client.post(LOGIN, json={field: getattr(user, field), "password": PASSWORD})
    assert answer.status_code == 200
    assert answer.json["token_type"] == "Bearer"
    assert answer.json["expires_in"] > 0
    assert answer.json["user"]["id"] == user.id
    assert "password_hash" not in answer.json["user"]
    me = client.get("/api/v1/me", headers={"Authorization": f"Bearer {answer.json['access_token']}"})
    only_me = {name: me.json[name] for name in ("preferences", "skips_own_changes")}
    assert me.json == answer.json["user"] | only_me


@pytest.mark.parametrize("login", [{"username": "nobody"}, {"email": "nobody@example.org"}])
def test_a_wrong_login_is_a_401(client, login):
    answer = client.post(LOGIN, json=login | {"password": PASSWORD})
    assert is_error(answer, 401)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_an_unknown_address_is_a_404_and_a_wrong_method_a_405(client):
    assert is_error(client.get("/api/v1/nothing"), 404)
    answer = client.get(LOGIN)
    assert is_error(answer, 405)
    assert "POST" in answer.headers["Allow"]


def test_a_session_does_not_open_the_api(client):
    log_in(client, make_user())
    assert is_error(client.get("/api/v1/me"), 401)
    assert is_error(client.post("/api/v1/auth/logout"), 401)


def test_the_api_needs_no_csrf_token(app):
    app.config["WTF_CSRF_ENABLED"] = True
    user = make_user()
    answer = app.test_client().post(LOGIN, json={"username": user.username, "password": PASSWORD})
    assert answer.status_code == 200


def test_a_logout_ends_this_token_only(client):
    user = make_user()
    one, other = bearer(user), bearer(user)
    assert client.post("/api/v1/auth/logout", headers=one).status_code == 204
    assert is_error(client.get("/api/v1/me", headers=one), 401)
    assert client.get("/api/v1/me", headers=other).status_code == 200


def test_a_disabled_users_token_is_closed_at_once(client, session):
    user = make_user()
    headers = bearer(user)
    assert client.get("/api/v1/me", headers=headers).status_code == 200
    disable(user)
    session.commit()
    assert is_error(client.get("/api/v1/me", headers=headers), 401)


def test_the_document_is_openapi_3_1_and_names_the_bearer_scheme(client):
    document = client.get("/api/openapi.json").json
    assert document["openapi"] == "3.1.0"
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert document["paths"]["/api/v1/auth/login"]["post"]["security"] == []
    assert {"/api/v1/me", "/api/v1/reservations", "/api/v1/auth/logout"} <= document["paths"].keys()


def test_a_crash_is_a_500_without_details(app, client, monkeypatch):
    app.config["PROPAGATE_EXCEPTIONS"] = False
    monkeypatch.setattr("app.accounts.services.authenticate", lambda *_: 1 / 0)
    answer = client.post(LOGIN, json={"username": "abc", "password": "b"})
    assert is_error(answer, 500)
    assert "division" not in answer.text


def test_an_answer_does_not_vary_with_a_cookie(client):
    user = make_user()
    log_in(client, user)
    for path in ("/api/v1/me", "/api/v1/reservations", "/api/openapi.json", "/api/nowhere"):
        answer = client.get(path, headers=bearer(user))
        assert "Cookie" not in answer.headers.get("Vary", ""), path
        assert "Set-Cookie" not in answer.headers, path
