"""Second factors, the change of a password and the record of logins: what Flask-Security does, with our rules."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa
import time_machine

from app.accounts import hash_password
from app.accounts.limits import CODES
from app.audit.models import AuditEntry
from app.extensions import db
from app.tenancy import EVERYTHING, seeing
from tests.reservation_factories import PASSWORD, log_in, make_user
from tests.second_factors import log_in_by_password, set_up_second_factor

# Nothing here is about the database.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

NEW_PASSWORD = "another good battery"


@pytest.fixture
def user():
    return make_user()


@pytest.fixture
def with_factor(client, user):
    """A user with a second factor, logged out, a while later."""
    log_in(client, user)
    factor = set_up_second_factor(client)
    client.post("/logout")
    return factor


def test_a_login_with_a_second_factor_takes_its_code(client, user, with_factor, session):
    with time_machine.travel("2030-01-01T12:00:00Z"):
        assert log_in_by_password(client, user).startswith("/login/code")
        assert client.get("/reservations/").status_code == 302  # not in yet
        assert client.post("/login/code", data={"code": "000000"}).status_code == 422
        assert client.post("/login/code", data={"code": with_factor.generate().token}).status_code == 302
        assert client.get("/reservations/").status_code == 200


def test_a_code_works_once(app, user, with_factor):
    with time_machine.travel("2030-01-01T12:00:00Z"):
        code = with_factor.generate().token
        first, second = app.test_client(), app.test_client()
        for client, status in ((first, 302), (second, 422)):
            log_in_by_password(client, user)
            assert client.post("/login/code", data={"code": code}).status_code == status


def test_a_recovery_code_lets_in_once_and_is_kept_as_a_hash(app, client, user, with_factor, session):
    with time_machine.travel("2030-01-01T12:00:00Z"):
        log_in_by_password(client, user)
        client.post("/login/code", data={"code": with_factor.generate().token})
        page = client.post("/account/recovery-codes", data={"generate_new_codes": "1"})
        codes = re.findall(r"<li><code>([^<]+)</code></li>", page.text)
        assert len(codes) == 5
        session.refresh(user)
        assert not set(codes) & set(user.mf_recovery_codes)
        assert not any(code in client.get("/account/recovery-codes?show_codes=1").text for code in codes)
        for expected in (302, 422):
            other = app.test_client()
            log_in_by_password(other, user)
            assert other.post("/login/recovery-code", data={"code": codes[0]}).status_code == expected
        session.refresh(user)
        assert len(user.mf_recovery_codes) == 4


def test_a_second_factor_can_be_turned_off_and_its_secret_is_gone(client, user, session):
    log_in(client, user)
    set_up_second_factor(client)
    session.refresh(user)
    assert user.tf_totp_secret is not None
    client.post("/account/two-factor", data={"setup": "disable"})
    session.refresh(user)
    assert (user.tf_primary_method, user.tf_totp_secret) == (None, None)
    client.post("/logout")
    assert log_in_by_password(client, user) == "/start"


def test_what_is_changed_of_the_login_asks_for_the_password_when_the_login_was_long_ago(client, user):
    with time_machine.travel("2030-01-01T12:00:00Z", tick=False) as clock:
        log_in(client, user)
        assert client.get("/account/two-factor").status_code == 200
        clock.shift(3 * 3600)
        answer = client.get("/account/two-factor")
        assert (answer.status_code, answer.location.split("?")[0]) == (302, "/account/verify")
        assert client.post("/account/verify", data={"password": "wrong"}).status_code == 422
        assert client.post("/account/verify", data={"password": PASSWORD}).status_code == 302
        assert client.get("/account/two-factor").status_code == 200


def test_a_new_password_ends_all_other_sessions(app, client, user, session):
    other = app.test_client()
    log_in(client, user)
    log_in(other, user)
    wrong = {"password": "wrong", "new_password": NEW_PASSWORD, "new_password_confirm": NEW_PASSWORD}
    assert client.post("/account/password", data=wrong).status_code == 422
    short = {"password": PASSWORD, "new_password": "short", "new_password_confirm": "short"}
    assert client.post("/account/password", data=short).status_code == 422
    assert client.post("/account/password", data=wrong | {"password": PASSWORD}).status_code == 302
    assert client.get("/reservations/").status_code == 200
    assert other.get("/reservations/").status_code == 302
    session.refresh(user)
    assert user.password_hash.startswith("$argon2id$")
    with_old = {"login": user.username, "password": PASSWORD}
    assert other.post("/login", data=with_old).status_code == 422
    assert other.post("/login", data=with_old | {"password": NEW_PASSWORD}).status_code == 302


def test_logins_are_counted(client, user, session):
    for _ in range(2):
        log_in(client, user)
        client.post("/logout")
    session.refresh(user)
    assert user.login_count == 2
    assert user.current_login_ip == "127.0.0.1"
    assert user.last_login_at <= user.current_login_at


def test_pages_take_no_token_of_flask_security(client, user):
    token = user.get_auth_token()
    assert client.get("/account/password", headers={"Authentication-Token": token}).status_code == 302
    assert client.get("/account/password", query_string={"auth_token": token}).status_code == 302


def test_a_login_answers_in_json_to_nobody(client, user):
    answer = client.post("/login?include_auth_token", json={"login": user.username, "password": PASSWORD})
    assert answer.mimetype == "text/html"
    db.session.rollback()


def test_an_api_login_with_a_second_factor_takes_its_code_too(client, user, with_factor):
    with time_machine.travel("2030-01-01T12:00:00Z"):
        login = {"username": user.username, "password": PASSWORD}
        refused = client.post("/api/v1/auth/login", json=login)
        assert (refused.status_code, list(refused.json["errors"])) == (401, ["code"])
        code = with_factor.generate().token
        assert client.post("/api/v1/auth/login", json=login | {"code": "000000"}).status_code == 401
        assert client.post("/api/v1/auth/login", json=login | {"code": code}).status_code == 200
        assert client.post("/api/v1/auth/login", json=login | {"code": code}).status_code == 401


def test_a_password_is_the_same_however_the_keyboard_spells_its_letters(client, session):
    composed, decomposed = "ein \u00fcbles Wort", "ein u\u0308bles Wort"
    user = make_user(password_hash=hash_password(composed))
    for spelling in (composed, decomposed):
        assert client.post("/login", data={"login": user.username, "password": spelling}).status_code == 302
        assert client.post("/account/verify", data={"password": spelling}).status_code == 302
        client.post("/logout")
    client.post("/login", data={"login": user.username, "password": composed})
    new = {"password": composed, "new_password": "fr\u00fch am Morgen", "new_password_confirm": "fr\u00fch am Morgen"}
    assert client.post("/account/password", data=new).status_code == 302
    login = {"username": user.username, "password": "fr\u00fch am Morgen"}
    assert client.post("/api/v1/auth/login", json=login).status_code == 200


def test_a_new_password_is_no_login(client, user, session):
    log_in(client, user)
    new = {"password": PASSWORD, "new_password": NEW_PASSWORD, "new_password_confirm": NEW_PASSWORD}
    assert client.post("/account/password", data=new).status_code == 302
    with seeing(EVERYTHING):
        deeds = session.scalars(sa.select(AuditEntry.action).where(AuditEntry.action == "user.login")).all()
    assert len(deeds) == 1


@pytest.mark.parametrize("path", ["/account/verify", "/account/password"])
def test_the_password_of_who_is_logged_in_is_not_guessed_for_long(client, user, path):
    log_in(client, user)
    form = {"password": "wrong", "new_password": NEW_PASSWORD, "new_password_confirm": NEW_PASSWORD}
    statuses = [client.post(path, data=form).status_code for _ in range(CODES.times + 1)]
    assert statuses == [422] * CODES.times + [429]


@pytest.mark.parametrize("path", ["/login/code", "/login/recovery-code", "/api/v1/auth/login"])
def test_codes_are_not_guessed_for_long(client, user, with_factor, path):
    """Whoever knows the password has as many tries as for any other code, on pages and in the API."""
    login = {"username": user.username, "password": PASSWORD, "code": "000000"}
    log_in_by_password(client, user)
    sends = {"json": login} if path.startswith("/api") else {"data": login}
    statuses = [client.post(path, **sends).status_code for _ in range(CODES.times + 1)]
    assert statuses[-1] == 429
    assert set(statuses[:-1]) <= {401, 422}
