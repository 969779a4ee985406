"""The page of personal tokens, and that of the API's documentation."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from app.accounts import AccessToken, issue_personal_token
from app.accounts.forms import SCOPE_GROUPS
from app.api import SCOPES
from tests.reservation_factories import log_in, make_user

PAGE, DOCS = "/account/tokens", "/api/docs"
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_a_token_is_made_shown_once_and_revoked(client, session):
    log_in(client, make_user())
    made = client.post(PAGE, data={"name": "Import", "scopes": ["profile:read"], "days": "30"})
    assert made.status_code == 201
    token = re.findall(r">(belfry_[\w-]+)<", made.text)[0]
    assert "no-store" in made.headers["Cache-Control"]
    shown = client.get(PAGE).text
    assert "Import" in shown
    assert token not in shown
    headers = {"Authorization": f"Bearer {token}"}
    assert client.get("/api/v1/me", headers=headers).status_code == 200
    id = session.scalars(sa.select(AccessToken.id)).one()
    assert client.post(f"{PAGE}/{id}/revoke").status_code == 303
    assert client.get("/api/v1/me", headers=headers).status_code == 401
    assert "Import" not in client.get(PAGE).text.replace("Token Import revoked", "")


def test_every_scope_is_a_box_with_what_it_allows(client):
    assert [scope for scopes in SCOPE_GROUPS.values() for scope in scopes] == list(SCOPES)
    log_in(client, make_user())
    sent = {"name": "", "scopes": ["read", "profile:write"], "days": "30"}
    page = client.post(PAGE, data=sent).text
    boxes = re.findall(r'<input[^>]*type="checkbox" name="scopes" value="([^"]+)"( checked)?>', page)
    assert dict(boxes) == {scope: " checked" if scope in sent["scopes"] else "" for scope in SCOPES}
    assert "See reservations and resources" in page
    assert "<select" not in page.partition("</fieldset>")[0].partition("<fieldset")[2]


def test_only_a_new_token_has_a_button_that_copies_it(client):
    log_in(client, make_user())
    assert "data-copies" not in client.get(PAGE).text
    made = client.post(PAGE, data={"name": "Import", "scopes": ["read"], "days": "30"}).text
    assert 'id="token-made"' in made
    assert 'data-copies="token-made"' in made


@pytest.mark.parametrize(
    "changes", [{"name": ""}, {"scopes": []}, {"scopes": ["all"]}, {"days": "7"}, {"name": "a\x00b"}]
)
def test_a_wrong_form_makes_no_token(client, session, changes):
    log_in(client, make_user())
    answer = client.post(PAGE, data={"name": "Import", "scopes": ["read"], "days": "30"} | changes)
    assert answer.status_code == 422
    assert session.scalars(sa.select(AccessToken)).all() == []


def test_the_page_is_for_those_who_are_logged_in_and_shows_their_own(client):
    _, token = issue_personal_token(make_user(), "theirs", SCOPES)
    assert client.get(PAGE).status_code == 302
    log_in(client, make_user())
    assert "theirs" not in client.get(PAGE).text
    assert client.post(f"{PAGE}/{token.id}/revoke").status_code == 404


@pytest.mark.parametrize("is_logged_in", [False, True])
def test_the_documentation_loads_only_our_own_files_and_no_other_page_loads_swagger_ui(client, is_logged_in):
    if is_logged_in:
        log_in(client, make_user())
    page = client.get(DOCS)
    assert page.status_code == 200
    assert ('aria-label="Main"' in page.text) is is_logged_in
    loaded = re.findall(r'(?:src|href|data-document)="([^"#]+\.(?:js|css|json)[^"]*)"', page.text)
    assert [name for name in loaded if "/vendor/swagger-ui/" in name] != []
    assert "/api/openapi.json" in loaded
    for path in loaded:
        assert path.startswith("/")
        with client.get(path) as file:
            assert file.status_code == 200
    assert "swagger-ui" not in client.get(PAGE if is_logged_in else "/login").text


def test_the_document_describes_the_token_that_an_operation_requires(client):
    paths = client.get("/api/openapi.json").json["paths"]
    described = {
        ("/api/v1/auth/login", "post"): "Requires no token.",
        ("/api/v1/me/tokens", "get"): "Requires an access token of a login; personal tokens are not accepted.",
        ("/api/v1/reservations", "get"): "or a personal token with the scope `reservations:read`.",
        ("/api/v1/reservations", "post"): "or a personal token with the scope `reservations:write`.",
    }
    for (path, method), text in described.items():
        assert paths[path][method]["description"].endswith(text)
    assert paths["/api/v1/auth/login"]["post"]["tags"] == ["Accounts"]
