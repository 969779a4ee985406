"""What users change of themselves, over the API and on their page: name, time zone, which messages they want."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from app.accounts import Role, issue_personal_token
from app.accounts.models import MessagePreference
from flask_belfry.changes import StatusChange
from flask_belfry.db import db
from flask_belfry.mail import optional_kinds
from tests.reservation_factories import bearer, log_in, make_user
from tests.simultaneous import at_once

ME, PAGE = "/api/v1/me", "/account"
KIND = "reservation-status"
ALL = {kind: {"mail": True, "push": True} for kind in optional_kinds()}
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def user(app):
    return make_user(name="Ada", time_zone="UTC")


@pytest.fixture
def headers(user):
    return bearer(user)


def checked(page) -> set[str]:
    return set(re.findall(r'name="wanted" value="([^"]+)" checked', page.text))


@on_sqlite
def test_a_user_without_preferences_gets_every_mail(client, headers, session):
    assert client.get(ME, headers=headers).json["preferences"] == ALL
    assert session.scalars(sa.select(MessagePreference)).all() == []


def test_what_is_given_is_changed_and_the_rest_stays(client, headers, session):
    changes = {"name": "  Ada   Lovelace ", "preferences": {KIND: {"mail": False}}}
    answer = client.patch(ME, json=changes, headers=headers)
    assert answer.status_code == 200, answer.text
    assert (answer.json["name"], answer.json["time_zone"]) == ("Ada Lovelace", "UTC")
    assert answer.json["preferences"] == ALL | {KIND: {"mail": False, "push": True}}
    both = {"notice": {"push": False}, KIND: {"mail": True}}
    answer = client.patch(ME, json={"time_zone": "Asia/Tokyo", "preferences": both}, headers=headers)
    assert client.get(ME, headers=headers).json == answer.json
    assert (answer.json["name"], answer.json["time_zone"]) == ("Ada Lovelace", "Asia/Tokyo")
    assert answer.json["preferences"] == ALL | {"notice": {"mail": True, "push": False}}
    # Only what differs between users.
    rows = session.execute(sa.select(MessagePreference.kind, MessagePreference.channel)).all()
    assert rows == [("notice", "push")]
    assert client.patch(ME, json={"time_zone": None}, headers=headers).json["time_zone"] is None


WRONG = (
    *[({name: 1}, name) for name in ("role", "school_id", "id", "active", "password", "is_confirmed")],
    ({"email": "other@example.org"}, "email"),
    ({"username": "other"}, "username"),
    ({"confirmed_at": None}, "confirmed_at"),
    ({"name": None}, "name"),
    ({"name": ""}, "name"),
    ({"name": "   "}, "name"),
    ({"name": "x" * 121}, "name"),
    ({"name": "a\x00b"}, "name"),
    ({"name": ["Ada"]}, "name"),
    ({"time_zone": "Mars/Olympus"}, "time_zone"),
    ({"time_zone": ""}, "time_zone"),
    ({"time_zone": 5}, "time_zone"),
    ({"preferences": []}, "preferences"),
    ({"preferences": {"colour": {"mail": False}}}, "preferences.colour"),
    ({"preferences": {"password-reset": {"mail": False}}}, "preferences.password-reset"),
    ({"preferences": {KIND: {"pigeon": False}}}, f"preferences.{KIND}.pigeon"),
    ({"preferences": {KIND: {"mail": "no"}}}, f"preferences.{KIND}.mail"),
    ({"preferences": {KIND: {"mail": 0}}}, f"preferences.{KIND}.mail"),
    ({"preferences": {KIND: None}}, f"preferences.{KIND}"),
)


@on_sqlite
def test_invalid_and_read_only_fields_are_named_and_nothing_is_changed(client, headers):
    before = client.get(ME, headers=headers).json
    for body, field in WRONG:
        answer = client.patch(ME, json={"name": "Eve", **body}, headers=headers)
        assert (answer.status_code, list(answer.json["errors"])) == (422, [field])
    assert client.get(ME, headers=headers).json == before


def test_of_two_editors_with_the_same_etag_one_wins(app, client, headers):
    etag = client.get(ME, headers=headers).headers["ETag"]

    def edit(client):
        body = {"preferences": {KIND: {"mail": False}}}
        return client.patch(ME, json=body, headers={**headers, "If-Match": etag}).status_code

    assert sorted(at_once(app, 2, edit)) == [200, 412]
    # Without it both do as they say, and neither fails over the other's row.
    assert at_once(app, 2, lambda client: client.patch(ME, json={"preferences": {"notice": {"mail": False}}},
                                                       headers=headers).status_code) == [200, 200]  # fmt: skip


@on_sqlite
@pytest.mark.parametrize(("scope", "status"), [("profile:write", 200), ("profile:read", 403), ("write", 200)])
def test_a_script_changes_its_user_with_the_scope_for_it(client, user, scope, status):
    text, _ = issue_personal_token(user, "script", [scope])
    db.session.commit()
    answer = client.patch(ME, json={"name": "Script"}, headers={"Authorization": f"Bearer {text}"})
    assert answer.status_code == status


@on_sqlite
def test_an_unconfirmed_user_neither_sees_nor_changes_their_profile(client):
    headers = bearer(make_user(confirmed_at=None))
    assert client.get(ME, headers=headers).status_code == 403
    assert client.patch(ME, json={"name": "Eve"}, headers=headers).status_code == 403


@on_sqlite
def test_changes_are_on_record_and_names_are_not(client, headers, user, session):
    client.patch(ME, json={"name": "Ada Lovelace", "time_zone": "Asia/Tokyo"}, headers=headers)
    changes = session.scalars(sa.select(StatusChange).where(StatusChange.user_id == user.id)).all()
    told = {(change.field, change.old, change.new) for change in changes}
    assert told == {("name", None, None), ("time_zone", "UTC", "Asia/Tokyo")}


# ── The page ─────────────────────────────────────────────────────────────────────────────────────────────────────


@on_sqlite
def test_the_page_shows_and_saves_the_profile(client, user):
    log_in(client, user)
    page = client.get(PAGE)
    assert 'value="Ada"' in page.text
    assert '<option selected value="UTC">' in page.text
    assert checked(page) == {f"{kind}.mail" for kind in ALL}
    assert "Push" not in re.search(r"<table.*</table>", page.text, re.DOTALL).group()
    form = {"name": "Ada <b>", "time_zone": "Europe/Berlin", "wanted": [f"{KIND}.mail"]}
    saved = client.post(PAGE, data=form)
    assert (saved.status_code, saved.location) == (303, PAGE)
    page = client.get(PAGE)
    assert "Profile saved." in page.text
    assert not client.get("/api/v1/me", headers=bearer(user)).json["skips_own_changes"]
    client.post(PAGE, data=form | {"skips_own_changes": "y"})
    assert client.get("/api/v1/me", headers=bearer(user)).json["skips_own_changes"]
    assert "Ada &lt;b&gt;" in page.text
    assert "Ada <b>" not in page.text
    assert '<option selected value="Europe/Berlin">' in page.text
    assert checked(page) == set(form["wanted"])
    client.post(PAGE, data={"name": "Ada", "time_zone": ""})
    assert checked(client.get(PAGE)) == set()
    db.session.refresh(user)
    assert user.time_zone is None


@on_sqlite
def test_a_wrong_form_changes_nothing_and_says_why(client, user):
    log_in(client, user)
    wrong = [{"name": ""}, {"name": "x" * 121}, {"name": "a\x07"}]
    for changes in [*wrong, {"time_zone": "Mars/Olympus"}, {"wanted": ["colour.mail"]}, {"wanted": ["notice.push"]}]:
        answer = client.post(PAGE, data={"name": "Eve", "time_zone": "UTC", "wanted": ["notice.mail"]} | changes)
        assert answer.status_code == 422
        assert "field-errors" in answer.text
    db.session.refresh(user)
    assert user.name == "Ada"
    assert db.session.scalars(sa.select(MessagePreference)).all() == []


@on_sqlite
def test_the_form_changes_nothing_but_what_it_shows(client, user):
    log_in(client, user)
    client.post(PAGE, data={"name": "Ada", "time_zone": "UTC", "role": "admin", "email": "eve@example.org"})
    db.session.refresh(user)
    assert (user.role, user.email.startswith("member")) == (Role.MEMBER, True)


@on_sqlite
def test_the_forms_take_a_csrf_token(app, client, user):
    log_in(client, user)
    app.config["WTF_CSRF_ENABLED"] = True
    for path in (PAGE, f"{PAGE}/export", f"{PAGE}/delete"):
        assert client.post(path, data={"name": "Eve", "password": "x"}).status_code == 400
