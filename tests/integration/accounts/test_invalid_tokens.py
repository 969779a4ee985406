"""Expired, revoked and forged tokens and links."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa
import time_machine

from app.accounts import AccessToken, User, codes, issue_pair, issue_personal_token, services
from app.accounts.models import AccountCode, CodePurpose
from app.accounts.tokens import refresh_pair, revoke
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from tests.reservation_factories import PASSWORD, make_user

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ME, LOGIN, REGISTER = "/api/v1/me", "/api/v1/auth/login", "/api/v1/auth/register"
RESERVATIONS, TOKENS = "/api/v1/reservations", "/api/v1/me/tokens"
SHAPE = {"code", "status", "message", "errors"}


@pytest.fixture
def settings(settings):
    """Rate limits are off: web/test_rate_limits.py is about them."""
    return settings | {"RATE_LIMITS_ENABLED": "false"}


def _shut_out(user: User) -> str:
    user.active = False  # and nothing more: `disable` revokes the token too
    return issue_pair(user).access_token


def _revoked(user: User) -> str:
    text, token = issue_personal_token(user, "script", ["read"])
    revoke(token)
    return text


def _expired(user: User) -> str:
    with time_machine.travel(utc_now() - timedelta(days=1), tick=False):
        return issue_pair(user).access_token


def _renewed(user: User) -> str:
    pair = issue_pair(user)
    refresh_pair(pair.refresh_token)
    return pair.access_token


def _replayed(user: User) -> str:
    pair = issue_pair(user)
    newer = refresh_pair(pair.refresh_token)
    assert newer is not None
    refresh_pair(pair.refresh_token)  # by a second one: the family ends
    return newer.access_token


def _kept(user: User) -> str:
    issue_pair(user)
    return db.session.scalars(sa.select(AccessToken.hash)).one()


# Texts that open nothing, by how they came to be.
DEAD_TOKENS: dict[str, Callable[[User], str]] = {
    "expired": _expired,
    "of one who was shut out": _shut_out,
    "revoked": _revoked,
    "replaced by a newer one": _renewed,
    "of a family whose refresh token was used twice": _replayed,
    "a refresh token": lambda user: issue_pair(user).refresh_token,
    "cut": lambda user: issue_pair(user).access_token[:-1],
    "in another case": lambda user: issue_pair(user).access_token.swapcase(),
    "of Flask-Security": lambda user: user.get_auth_token(),
    "a user's id": lambda user: str(user.id),
    "a session's": lambda user: user.get_id(),
    "as it is kept": _kept,
}


@pytest.mark.parametrize("name", DEAD_TOKENS)
def test_a_token_that_works_no_more_or_never_did_opens_nothing(client, session, name):
    token = DEAD_TOKENS[name](make_user())
    session.commit()
    for path in (ME, RESERVATIONS):
        answer = client.get(path, headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json.keys()) == (401, SHAPE)
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    "header", [None, "Bearer nonsense", "Basic YTpi", "Bearer", "nonsense", "Bearer \xff", "Bearer a b"]
)
def test_an_invalid_header_is_refused(client, header):
    answer = client.get(ME, headers={"Authorization": header} if header else {})
    assert (answer.status_code, answer.json.keys()) == (401, SHAPE)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def _code(user: User, purpose: CodePurpose) -> AccountCode:
    code = codes.issue(user, purpose)
    codes.start(db.session(), purpose, [code.id])
    db.session.commit()
    return code


# What an attacker who has a code's row, or another token, might try in the place of a link's token.
LINKS: dict[str, Callable[[AccountCode], str]] = {
    "of another purpose": lambda code: codes.token_of(_code(make_user(confirmed_at=None), CodePurpose.CONFIRM)),
    "of a personal token": lambda code: issue_personal_token(code.user, "script", ["read"])[0],
    "a nonce": lambda code: str(code.nonce),
    "its hash": lambda code: code.token_hash,
    "cut": lambda code: codes.token_of(code)[:-1],
    "with more": lambda code: codes.token_of(code) + "=",
    "a NUL": lambda code: "\x00",
}


@pytest.mark.parametrize("name", LINKS)
def test_a_link_that_was_made_up_changes_no_password(client, session, name):
    user = make_user()
    code = _code(user, CodePurpose.RESET)
    body = {"token": LINKS[name](code), "password": "another password"}
    assert client.post("/api/v1/auth/password-reset/confirm", json=body).status_code == 422
    assert services.authenticate(user.username, PASSWORD) is user
    body["token"] = codes.token_of(code)
    for status in (200, 422):  # and the right one works once
        assert client.post("/api/v1/auth/password-reset/confirm", json=body).status_code == status
