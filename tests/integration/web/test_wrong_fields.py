"""Wrong values of fields, as a table: each is named, and nothing is written."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from app.accounts import Role, User
from app.reservations import Reservation
from app.schools import default_school
from tests.reservation_factories import PASSWORD, bearer, log_in, make_school, make_user
from tests.url_rules import rows

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ME, LOGIN, REGISTER = "/api/v1/me", "/api/v1/auth/login", "/api/v1/auth/register"
RESERVATIONS, TOKENS = "/api/v1/reservations", "/api/v1/me/tokens"
SHAPE = {"code", "status", "message", "errors"}
SMUGGLED = "\r\nBcc: eve@example.org"
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def settings(settings):
    """Rate limits are off: web/test_rate_limits.py is about them."""
    return settings | {"RATE_LIMITS_ENABLED": "false"}


JSON = "application/json"
ADA = {"username": "ada", "email": "ada@example.org", "password": PASSWORD}
BOOKING = {"start_time": "2099-01-01T10:00:00Z"}
SCOPED = {"name": "Cron", "scopes": ["read"]}
# The letters of some come from other alphabets, or turn the direction of those that follow.
WRONG_USERNAMES = (
    *("", "ad", "a" * 41, "a" * 50_000, "ada lovelace", "ada@example.org", "-ada", "ada.", "ada\x00", "../ada"),
    *(f"ada{SMUGGLED}", "ada\n", SCRIPT, "\u0430da", "ada\u202e", "\uff41\uff44\uff41", "ada'; DROP TABLE users; --"),
    *(None, 5, True, ["ada"], {"a": 1}),
)
WRONG_ADDRESSES = (
    *("", "ada", "ada@", "@example.org", "a b@example.org", "a" * 250 + "@ex.org", "ada@localhost", "ada@[127.0.0.1]"),
    *(f"ada@example.org{SMUGGLED}", "ada\n@example.org", "ada@example.org\x00", "ada@example.org\nx"),
    *("ada@example.org, eve@example.org", "Ada <ada@example.org>", "ad\u0430@example.org", "ada@exam\u202eple.org"),
    *(None, 5, ["ada@example.org"]),
)
WRONG_PASSWORDS = ("", "short", "x" * 201, "x" * 1_001, 5, None)
# Where, what is right there, what is sent in its place, and the fields that the answer names.
FIELDS: list[tuple[str, dict[str, Any], dict[str, Any], set[str]]] = [
    (LOGIN, {}, {}, {"password"}),
    (LOGIN, {"password": "x"}, {}, {"username"}),
    (LOGIN, {"password": "x"}, {"username": "a", "email": "b"}, {"username"}),
    (LOGIN, {}, {"password": 5, "username": ["a"]}, {"password", "username"}),
    (LOGIN, {"username": "a"}, {"password": {"$ne": ""}}, {"password"}),
    (LOGIN, {"username": "a"}, {"password": "x" * 1_001}, {"password"}),
    (LOGIN, {"password": "x"}, {"username": "x" * 255}, {"username"}),
    *[(REGISTER, ADA, {"username": username}, {"username"}) for username in WRONG_USERNAMES],
    *[(REGISTER, ADA, {"email": email}, {"email"}) for email in WRONG_ADDRESSES],
    *[(REGISTER, ADA, {"password": password}, {"password"}) for password in WRONG_PASSWORDS],
    (REGISTER, ADA, {"username": "x", "email": "nowhere", "password": "short"}, {"username", "email", "password"}),
    (TOKENS, SCOPED, {"name": ""}, {"name"}),
    (TOKENS, SCOPED, {"name": "x" * 81}, {"name"}),
    (TOKENS, SCOPED, {"name": "a\x00"}, {"name"}),
    (TOKENS, SCOPED, {"name": "a\x1b[2J"}, {"name"}),
    (TOKENS, SCOPED, {"scopes": []}, {"scopes"}),
    (TOKENS, SCOPED, {"scopes": ["everything"]}, {"scopes.0"}),
    (TOKENS, SCOPED, {"scopes": ["read"] * 1_000}, {"scopes"}),
    (TOKENS, SCOPED, {"scopes": "read"}, {"scopes"}),
    (TOKENS, SCOPED, {"scopes": [["read"]]}, {"scopes.0"}),
    (TOKENS, SCOPED, {"expires_at": "2020-01-01T00:00:00Z"}, {"expires_at"}),
    (TOKENS, SCOPED, {"expires_at": "2030-01-01T00:00:00"}, {"expires_at"}),
    (RESERVATIONS, {}, {}, {"start_time"}),
    *[
        (RESERVATIONS, BOOKING, {"start_time": moment}, {"start_time"})
        for moment in (
            *("2030-01-01T10:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "2020-01-01T10:00:00Z"),
            *("", "soon", None, 5, 1e300, [], {}),
        )
    ],
    *[
        (RESERVATIONS, BOOKING, {"party_size": size}, {"party_size"})
        for size in (10**30, -1, 0, 1.5, "2", True, None, [1], float("nan"), float("inf"))
    ],
    (RESERVATIONS, BOOKING, {"resource_id": 10**30}, {"resource_id"}),
    (RESERVATIONS, BOOKING, {"resource_id": 5}, {"resource_id"}),
    (RESERVATIONS, BOOKING, {"resource_id": "1 OR 1=1"}, {"resource_id"}),
    (RESERVATIONS, BOOKING, {"duration_minutes": 1441}, {"duration_minutes"}),
    (RESERVATIONS, BOOKING, {"note": "a\x00b"}, {"note"}),
    (RESERVATIONS, BOOKING, {"note": "x" * 501}, {"note"}),
    (RESERVATIONS, BOOKING, {"note": 5}, {"note"}),
    (RESERVATIONS, BOOKING, {"status": "confirmed"}, {"status"}),
]  # fmt: skip


def test_every_wrong_field_is_named_and_nothing_is_written(client, session):
    headers = bearer(make_user())
    before = rows(session)
    for path, right, wrong, named in FIELDS:
        answer = client.post(path, json=right | wrong, headers=headers)
        assert (answer.status_code, answer.json.keys()) == (422, SHAPE), (path, wrong, answer.text)
        assert answer.json["errors"].keys() == named, (path, wrong)
    assert rows(session) == before


def test_the_form_of_a_registration_refuses_what_the_endpoint_refuses(client, session):
    before = rows(session)
    for path, right, wrong, _ in FIELDS:
        if path == REGISTER and all(isinstance(value, str) and value[-1:] != "\n" for value in wrong.values()):
            answer = client.post("/register", data=right | wrong)
            assert answer.status_code == 422, wrong
            assert "field-errors" in answer.text, wrong
    assert rows(session) == before


@pytest.mark.parametrize(
    "password", ["🔋 correct horse", "пароль из слов", " spaces ", ("a long phrase " * 15)[:200], "a\x00b\x01cdefg"]
)
def test_a_password_may_be_of_any_characters(client, password):
    assert client.post(REGISTER, json=ADA | {"password": password}).status_code == 201
    answer = client.post(LOGIN, json={"username": "ada", "password": password})
    assert answer.status_code == 200
    assert client.post(LOGIN, json={"username": "ada", "password": password[:-1]}).status_code == 401


def test_of_a_field_that_comes_twice_the_last_one_is_looked_at_and_used(client):
    body = '{"username": "%s", "username": "%s", "email": "ada@example.org", "password": "correct horse"}'
    assert client.post(REGISTER, data=body % ("ada", "a b"), content_type=JSON).status_code == 422
    answer = client.post(REGISTER, data=body % ("a b", "ada"), content_type=JSON)
    assert answer.json["user_data"]["username"] == "ada"


def test_a_whole_pair_of_surrogates_is_a_character(client):
    body = '{"username": "\\ud83d\\ude00", "password": "x"}'
    assert client.post(LOGIN, data=body, content_type=JSON).status_code == 401


# What a form gets besides its fields, and the row that must not follow it.
EXTRA = {"role": "admin", "school_id": "2", "confirmed_at": "2020-01-01", "is_confirmed": "y", "active": "", "id": "77"}


def test_a_form_takes_no_more_than_its_fields(client, session):
    other = make_school()
    assert client.post("/register", data=ADA | EXTRA).location == "/confirm"
    ada = session.scalars(sa.select(User).where(User.username == "ada")).one()
    assert (ada.role, ada.school_id, ada.is_confirmed, ada.active) == (Role.MEMBER, default_school().id, False, True)
    assert ada.id != 77

    member = make_user()
    client.post("/logout")
    log_in(client, member)
    form = {"start_time": "2099-01-01T10:00", "duration_minutes": "60", "party_size": "1"}
    hostile = {"customer": ada.email, "customer_id": str(ada.id), "status": "confirmed", "school_id": str(other.id)}
    assert client.post("/reservations/new", data=form | EXTRA | hostile).status_code == 303
    row = session.scalars(sa.select(Reservation)).one()
    kept = (row.customer_id, row.school_id, row.status)
    assert kept == (member.id, member.school_id, "pending")
    assert client.post(f"/reservations/{row.id}/edit", data=form | EXTRA | hostile | {"note": "x"}).status_code == 303
    session.refresh(row)
    assert (row.note, row.customer_id, row.school_id, row.status) == ("x", *kept)
