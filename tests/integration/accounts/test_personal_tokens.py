"""Personal tokens of scripts: made, shown once, limited to their scopes."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from app.accounts import AccessToken, Role, issue_personal_token
from app.api import SCOPES
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db import db
from tests.reservation_factories import bearer, make_reservation, make_user, tomorrow

ME, TOKENS, LOGOUT = "/api/v1/me", "/api/v1/me/tokens", "/api/v1/auth/logout"
RESERVATIONS = "/api/v1/reservations"

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def script(*scopes: str, user=None) -> dict[str, str]:
    """The header of a request by a script."""
    text, _ = issue_personal_token(user or make_user(), "script", scopes)
    db.session.commit()
    return {"Authorization": f"Bearer {text}"}


def test_a_personal_token_is_shown_once_listed_and_revoked(client):
    headers = bearer(make_user())
    expires_at = tomorrow().isoformat()
    body = {"name": "Cron", "scopes": ["reservations:read"], "expires_at": expires_at}
    made = client.post(TOKENS, json=body, headers=headers)
    assert made.status_code == 201
    shown = {name: value for name, value in made.json.items() if name != "token"}
    assert shown["expires_at"] == expires_at
    assert client.get(TOKENS, headers=headers).json["items"] == [shown]
    assert client.get(made.location, headers=headers).json == shown
    own = {"Authorization": f"Bearer {made.json['token']}"}
    assert client.get(RESERVATIONS, headers=own).status_code == 200
    assert client.get(made.location, headers=headers).json["last_used_at"] is not None
    assert client.delete(made.location, headers=headers).status_code == 204
    assert client.get(RESERVATIONS, headers=own).status_code == 401
    assert client.get(TOKENS, headers=headers).json["items"] == []
    assert client.delete(made.location, headers=headers).status_code == 404


def test_no_user_sees_or_revokes_the_token_of_another(client):
    _, token = issue_personal_token(make_user(), "theirs", ["read"])
    headers = bearer(make_user(Role.ADMIN))
    assert client.get(TOKENS, headers=headers).json["items"] == []
    assert client.get(f"{TOKENS}/{token.id}", headers=headers).status_code == 404
    assert client.delete(f"{TOKENS}/{token.id}", headers=headers).status_code == 404


def test_a_login_creates_no_personal_token(client, session):
    headers = bearer(make_user())
    id = session.scalars(sa.select(AccessToken.id)).one()
    assert client.get(TOKENS, headers=headers).json["items"] == []
    assert client.delete(f"{TOKENS}/{id}", headers=headers).status_code == 404


@pytest.mark.parametrize(
    ("scope", "reads_own", "reads", "writes"),
    [
        ("read", 200, 200, 403),
        ("write", 200, 200, 200),
        ("profile:read", 200, 403, 403),
        ("profile:write", 200, 403, 403),
        ("reservations:read", 403, 200, 403),
        ("reservations:write", 403, 200, 200),
    ],
)
def test_a_scope_opens_what_it_names(client, scope, reads_own, reads, writes):
    reservation = make_reservation()
    headers = script(scope, user=make_user(Role.STAFF))
    path = f"{RESERVATIONS}/{reservation.id}"
    assert client.get(ME, headers=headers).status_code == reads_own
    assert client.get(RESERVATIONS, headers=headers).status_code == reads
    assert client.patch(path, json={"note": "new"}, headers=headers).status_code == writes
    assert client.head(path, headers=headers).status_code == reads


def test_a_missing_scope_is_named(client):
    refused = client.patch(f"{RESERVATIONS}/1", json={"note": "new"}, headers=script("read"))
    assert refused.headers["WWW-Authenticate"] == (
        'Bearer realm="belfry", error="insufficient_scope", scope="reservations:write"'
    )
    of_logins_only = client.get(TOKENS, headers=script("read"))
    assert of_logins_only.headers["WWW-Authenticate"] == 'Bearer realm="belfry", error="insufficient_scope"'


def test_a_scope_gives_no_right_that_its_user_lacks(client):
    headers = script(*SCOPES)
    assert client.patch(f"{RESERVATIONS}/{make_reservation().id}", json={}, headers=headers).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"), [("GET", TOKENS), ("POST", TOKENS), ("DELETE", f"{TOKENS}/1"), ("POST", LOGOUT)]
)
def test_personal_tokens_and_logins_are_made_and_ended_by_logins_only(client, method, path):
    answer = client.open(path, method=method, json={"name": "more", "scopes": ["write"]}, headers=script(*SCOPES))
    assert answer.status_code == 403
    assert "log in" in answer.json["message"]


def test_a_token_that_would_have_ended_is_not_made(app):
    with pytest.raises(InvalidInputError):
        issue_personal_token(make_user(), "late", ["read"], utc_now())
