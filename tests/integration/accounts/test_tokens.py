"""Pairs of tokens and personal tokens, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from app.accounts import (
    AccessToken,
    change_password,
    disable,
    issue_pair,
    issue_personal_token,
    prune_tokens,
    revoke,
    verify_token,
)
from app.api import SCOPES
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from tests.reservation_factories import PASSWORD, make_user
from tests.simultaneous import at_once

ME, TOKENS = "/api/v1/me", "/api/v1/me/tokens"
REFRESH, LOGIN, LOGOUT = "/api/v1/auth/refresh", "/api/v1/auth/login", "/api/v1/auth/logout"
RESERVATIONS = "/api/v1/reservations"
SECRET_FIELDS = {"access_token", "refresh_token"}


@pytest.fixture
def pair(client):
    """The tokens of a login."""
    answer = client.post(LOGIN, json={"username": make_user().username, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    return answer.json


def refresh(client: FlaskClient, pair):
    return client.post(REFRESH, json={"refresh_token": pair["refresh_token"]})


def status_of(client: FlaskClient, token: str, path: str = ME) -> int:
    return client.get(path, headers={"Authorization": f"Bearer {token}"}).status_code


def test_a_refresh_gives_a_new_pair_and_voids_the_old(client, pair):
    answer = refresh(client, pair)
    assert answer.status_code == 200
    assert answer.json.keys() == pair.keys()
    assert all(answer.json[name] != pair[name] for name in SECRET_FIELDS)
    assert answer.json["user"] == pair["user"]
    assert status_of(client, answer.json["access_token"]) == 200
    assert status_of(client, pair["access_token"]) == 401
    assert refresh(client, answer.json).status_code == 200


def test_the_second_use_of_a_refresh_token_ends_the_family(client, pair):
    newer = refresh(client, pair).json
    newest = refresh(client, newer).json
    assert refresh(client, pair).status_code == 401
    assert status_of(client, newest["access_token"]) == 401
    assert refresh(client, newest).status_code == 401


def test_the_end_of_a_family_touches_no_other_login(client, pair):
    login = {"username": pair["user"]["username"], "password": PASSWORD}
    other = client.post(LOGIN, json=login).json
    refresh(client, pair), refresh(client, pair)
    assert status_of(client, other["access_token"]) == 200


def test_of_two_refreshes_at_once_one_wins_and_the_family_ends(app, client, pair):
    answers = at_once(app, 2, lambda client: refresh(client, pair))
    assert sorted(answer.status_code for answer in answers) == [200, 401]
    winner = next(answer.json for answer in answers if answer.status_code == 200)
    assert status_of(client, winner["access_token"]) == 401
    assert refresh(client, winner).status_code == 401


@pytest.mark.parametrize("wrong", ["", "x", "belfry_refresh_", "belfry_refresh_a.b", "belfry_refresh_\u00e9.b"])
def test_an_unknown_refresh_token_is_refused(client, wrong):
    answer = client.post(REFRESH, json={"refresh_token": wrong})
    assert answer.status_code == (401 if wrong else 422)


def test_the_secret_of_a_refresh_token_without_its_family_ends_nothing(client, pair):
    secret = pair["refresh_token"].partition(".")[2]
    assert client.post(REFRESH, json={"refresh_token": f"belfry_refresh_x.{secret}"}).status_code == 401
    assert status_of(client, pair["access_token"]) == 200


def test_tokens_end_at_their_times(client, clock):
    pair = vars(issue_pair(make_user()))
    db.session.commit()
    clock.shift(timedelta(seconds=pair["expires_in"] - 1))
    assert status_of(client, pair["access_token"]) == 200
    clock.shift(timedelta(seconds=2))
    assert status_of(client, pair["access_token"]) == 401
    pair = refresh(client, pair).json
    clock.shift(timedelta(seconds=pair["refresh_expires_in"] + 1))
    assert refresh(client, pair).status_code == 401


def test_a_logout_ends_the_refresh_token_too(client, pair):
    headers = {"Authorization": f"Bearer {pair['access_token']}"}
    assert client.post(LOGOUT, headers=headers).status_code == 204
    assert refresh(client, pair).status_code == 401
    assert status_of(client, pair["access_token"]) == 401


def end_by_password(user) -> None:
    change_password(user, "another password")


@pytest.mark.parametrize("end", [end_by_password, disable])
def test_a_new_password_and_being_shut_out_end_every_token(client, session, end):
    user = make_user()
    pair = vars(issue_pair(user))
    personal, _ = issue_personal_token(user, "script", SCOPES)
    session.commit()
    end(user)
    session.commit()
    assert status_of(client, pair["access_token"]) == 401
    assert refresh(client, pair).status_code == 401
    assert status_of(client, personal) == 401
    user.active = True  # let in again: what was ended stays so
    session.commit()
    assert status_of(client, personal) == 401


def test_a_token_works_until_it_is_revoked(session):
    user = make_user()
    text, token = issue_personal_token(user, "script", ["read"])
    session.commit()
    assert verify_token(text).user is user
    assert verify_token(text + "x") is None
    revoke(token)
    session.commit()
    assert verify_token(text) is None


def test_only_hashes_of_tokens_are_kept(session):
    pair = issue_pair(make_user())
    family, secret = pair.refresh_token.removeprefix("belfry_refresh_").split(".")
    row = str(session.execute(sa.select(AccessToken.__table__)).one())
    assert not [text for text in (pair.access_token, family, secret) if text in row]


def test_the_use_of_a_token_is_recorded_once_a_minute(session):
    text, token = issue_personal_token(make_user(), "script", ["read"])
    session.commit()
    assert token.last_used_at is None
    verify_token(text)
    first = token.last_used_at
    assert first is not None
    verify_token(text)
    assert token.last_used_at == first
    token.last_used_at = utc_now() - timedelta(minutes=2)
    session.commit()
    verify_token(text)
    assert token.last_used_at >= first


def test_tokens_that_work_no_more_are_pruned_after_a_week(session, clock):
    user = make_user()
    live, _ = issue_personal_token(user, "no end", ["read"])
    issue_personal_token(user, "ended", ["read"], utc_now() + timedelta(days=1))
    revoke(issue_personal_token(user, "revoked", ["read"])[1])
    issue_pair(user)  # its refresh token works for thirty days
    session.commit()
    clock.shift(timedelta(days=6))
    assert prune_tokens(session) == 0
    clock.shift(timedelta(days=3))
    assert prune_tokens(session) == 2
    clock.shift(timedelta(days=30))
    assert prune_tokens(session) == 1
    session.commit()
    assert verify_token(live) is not None
