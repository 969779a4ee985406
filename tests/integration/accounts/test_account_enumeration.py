"""Responses do not reveal which email addresses are registered."""

from __future__ import annotations

import re

import pytest

from app.accounts import services
from tests.reservation_factories import PASSWORD, make_user

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ME, LOGIN, REGISTER = "/api/v1/me", "/api/v1/auth/login", "/api/v1/auth/register"


@pytest.fixture
def settings(settings):
    """Rate limits are off: web/test_rate_limits.py is about them."""
    return settings | {"RATE_LIMITS_ENABLED": "false"}


AUTH = "/api/v1/auth"
# An endpoint and a page, what both are sent, and how many hashes of passwords that takes; {} is who is asked about.
ASKED = {
    "registering": (REGISTER, "/register", {"username": "new{}", "email": "{}@example.org", "password": PASSWORD}, 1),
    "another code": (f"{AUTH}/resend-confirmation", "/resend-confirmation", {"email": "{}@example.org"}, 0),
    "a forgotten password": (f"{AUTH}/password-reset", "/forgot-password", {"email": "{}@example.org"}, 0),
    "a login by address": (LOGIN, "/login", {"email": "{}@example.org", "password": "a wrong one"}, 2),
    "a login by name": (LOGIN, "/login", {"username": "{}", "password": "a wrong one"}, 1),
}


@pytest.fixture
def hashes(monkeypatch) -> list[str]:
    """One entry for each password that is hashed or checked from here on."""
    seen: list[str] = []
    for name in ("hash_password", "is_password"):
        real = getattr(services, name)
        monkeypatch.setattr(services, name, lambda *args, real=real: (seen.append("hash"), real(*args))[1])
    return seen


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("is_api", [True, False])
def test_what_is_known_and_what_is_unknown_cost_the_same_and_are_answered_alike(
    app, client, statements, hashes, name, is_api
):
    endpoint, page, asked, expected_hashes = ASKED[name]
    for who, values in {"known": {}, "claimed": {"confirmed_at": None}, "disabled": {"active": False}}.items():
        make_user(username=who, email=f"{who}@example.org", **values)

    def cost(who: str) -> tuple[list[str], int, int, str]:
        fields = {name: value.format(who) for name, value in asked.items()}
        form = {
            "login" if page == "/login" and name in ("email", "username") else name: fields[name] for name in fields
        }
        statements.clear(), hashes.clear()
        sends = {"json": fields} if is_api else {"data": form}
        answer = app.test_client().post(endpoint if is_api else page, **sends)
        # Without what differs each time: who it is, tokens, ids and times.
        said = re.sub(rf"{who}|[\w.-]{{30,}}|\d+", "", answer.text)
        return list(statements), len(hashes), answer.status_code, said

    known, *others = [cost(who) for who in ("known", "claimed", "disabled", "unknown")]
    assert known[0]
    assert known[1] == expected_hashes
    for other in others:
        assert other == known
