"""Second factors, the change of a password and the record of logins: what Flask-Security does, with our rules."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
import sqlalchemy as sa
import time_machine
from passlib.totp import TOTP

from app.accounts import Role, codes, hash_password
from app.accounts.limits import CODES
from app.accounts.models import CodePurpose
from app.accounts.second_factor import CODES_OF_USER
from app.audit.models import AuditEntry
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope
from flask_belfry.mail import EmailMessage
from tests.forms import shown_in
from tests.reservation_factories import PASSWORD, log_in, make_school, make_user
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
    factor = set_up_second_factor(client)
    session.refresh(user)
    assert user.tf_totp_secret is not None
    for code in (None, "000000", "dead-beef-0000"):
        for setup in ("disable", "authenticator"):
            assert client.post("/account/two-factor", data={"setup": setup, "code": code}).status_code == 422
    session.refresh(user)
    assert user.tf_primary_method == "authenticator"
    with time_machine.travel(utc_now() + timedelta(seconds=30)):
        code = factor.generate().token
        assert client.post("/account/two-factor", data={"setup": "disable", "code": code}).status_code == 302
    session.refresh(user)
    assert (user.tf_primary_method, user.tf_totp_secret) == (None, None)
    assert changes_mailed(session, user) == ["set-up", "turned-off"]
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


def test_a_login_page_never_answers_in_json(client, user):
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


def test_a_new_password_does_not_log_in(client, user, session):
    log_in(client, user)
    new = {"password": PASSWORD, "new_password": NEW_PASSWORD, "new_password_confirm": NEW_PASSWORD}
    assert client.post("/account/password", data=new).status_code == 302
    with use_scope(ALL_TENANTS):
        events = session.scalars(sa.select(AuditEntry.action).where(AuditEntry.action == "user.login")).all()
    assert len(events) == 1


@pytest.mark.parametrize("path", ["/account/verify", "/account/password"])
def test_the_password_of_who_is_logged_in_is_not_guessed_for_long(client, user, path):
    log_in(client, user)
    form = {"password": "wrong", "new_password": NEW_PASSWORD, "new_password_confirm": NEW_PASSWORD}
    statuses = [client.post(path, data=form).status_code for _ in range(CODES.times + 1)]
    assert statuses == [422] * CODES.times + [429]


@pytest.mark.parametrize("path", ["/login/code", "/login/recovery-code", "/api/v1/auth/login"])
def test_codes_are_not_guessed_for_long(client, user, with_factor, session, path):
    """A client that knows the password has few tries, from any IP address, on pages and in the API."""
    login = {"username": user.username, "password": PASSWORD, "code": "000000"}
    log_in_by_password(client, user)
    sends = {"json": login} if path.startswith("/api") else {"data": login}
    statuses = []
    for number in range(CODES_OF_USER.times + 1):
        client.environ_base["REMOTE_ADDR"] = f"192.0.2.{number}"
        statuses.append(client.post(path, **sends).status_code)
    assert set(statuses[:-1]) <= {401, 422}
    assert statuses[-1] == 429
    codes = session.scalars(sa.select(AuditEntry.subject_id).where(AuditEntry.action == "user.code_failed")).all()
    assert codes == [str(user.id)] * CODES_OF_USER.times


def test_a_right_code_gives_the_tries_back(client, user, with_factor):
    with time_machine.travel("2030-01-01T12:00:00Z", tick=False) as clock:
        for _ in range(2):
            log_in_by_password(client, user)
            for _ in range(CODES_OF_USER.times - 1):
                assert client.post("/login/code", data={"code": "000000"}).status_code == 422
            assert client.post("/login/code", data={"code": with_factor.generate().token}).status_code == 302
            client.post("/logout")
            clock.shift(60)


@pytest.mark.parametrize(("steps", "status"), [(-2, 422), (-1, 302), (1, 302), (2, 422)])
def test_a_code_is_tolerated_one_step_early_or_late(client, user, with_factor, steps, status):
    with time_machine.travel("2030-01-01T12:00:15Z", tick=False) as clock:
        clock.shift(30 * steps)
        code = with_factor.generate().token
        clock.shift(-30 * steps)
        log_in_by_password(client, user)
        assert client.post("/login/code", data={"code": code}).status_code == status


def test_a_second_factor_is_set_up_in_the_session_that_began_it(app, client, user, session):
    """The library signs the secret of a set-up for no user: a thief of a session brings one of their own."""
    thief = log_in(app.test_client(), make_user())
    page = thief.post("/account/two-factor", data={"setup": "authenticator"}).text
    factor = TOTP(key=re.search(r"Key: <code>([A-Z2-7 -]+)</code>", page)[1].replace("-", "").replace(" ", ""))
    path = re.search(r'action="(/account/two-factor/[^"]+)"', page)[1]
    log_in(client, user)
    client.post(path, data={"code": factor.generate().token})
    session.refresh(user)
    assert user.tf_primary_method is None


def test_new_recovery_codes_are_mailed_about(client, user, session):
    log_in(client, user)
    client.post("/account/recovery-codes", data={"generate_new_codes": "1"})
    assert changes_mailed(session, user) == ["recovery-codes"]


@pytest.mark.parametrize("path", ["/login/code", "/login/second-factor", "/login/recovery-code", "/login", "/logout"])
def test_no_get_logs_out(client, user, path):
    log_in(client, user)
    client.get(path)
    assert client.get("/reservations/").status_code == 200


@pytest.mark.parametrize("path", ["/login", "/api/v1/auth/login", "/account/verify", "/account/password"])
def test_wrong_passwords_are_in_the_audit_log_without_what_was_typed(client, user, session, path):
    if path.startswith("/account"):
        log_in(client, user)
    tries = [user.username] if path.startswith("/account") else [user.username, user.email, "nobody", "no@example.org"]
    for login in tries:
        key = "login" if path == "/login" else "email" if "@" in login else "username"
        body = {key: login, "password": "wr0ng-secret"}
        if path == "/account/password":
            body |= {"new_password": NEW_PASSWORD, "new_password_confirm": NEW_PASSWORD}
        answer = client.post(path, **({"json": body} if path.startswith("/api") else {"data": body}))
        assert answer.status_code in (401, 422)
    with use_scope(ALL_TENANTS):
        entries = session.scalars(
            sa.select(AuditEntry).where(AuditEntry.action == "user.password_failed").order_by(AuditEntry.id)
        ).all()
    own = str(user.id)
    assert [entry.subject_id for entry in entries] == [own, own, None, None][: len(tries)]
    assert {entry.school_id for entry in entries if entry.subject_id} == {user.school_id}
    assert [entry.details for entry in entries] == [{}] * len(tries)
    assert {entry.ip_address for entry in entries} == {"127.0.0.1"}


@pytest.mark.parametrize(
    "password",
    ["Passw0rd!2026", "qwertyuiop", "11112222", "147258369", "belfry-demo", "ada.lovelace1815", "Ada@Example.org"],
)
def test_a_password_that_is_guessed_first_is_refused_wherever_it_is_chosen(app, client, session, password):
    user = make_user(username="Ada.Lovelace", email="ada@example.org")
    registration = {"username": "ada.lovelace1", "email": "ada@example.org", "password": password}
    refused = client.post("/api/v1/auth/register", json=registration)
    assert (refused.status_code, list(refused.json["errors"])) == (422, ["password"])
    code = codes.issue(user, CodePurpose.RESET)
    codes.start(session, CodePurpose.RESET, [code.id])
    session.commit()
    body = {"token": codes.token_of(code), "password": password}
    assert client.post("/api/v1/auth/password-reset/confirm", json=body).json["errors"].keys() == {"password"}
    log_in(client, user)
    form = {"password": PASSWORD, "new_password": password, "new_password_confirm": password}
    assert client.post("/account/password", data=form).status_code == 422
    create = ["users", "create", "--email", "ada@example.org", "--username", "ada.lovelace", "--password", password]
    assert "password:" in app.test_cli_runner().invoke(args=create).stderr


def test_a_new_token_is_mailed_about(client, user, session):
    log_in(client, user)
    form = {"name": "http://evil.example", "scopes": ["profile:read"], "days": "30"}
    assert client.post("/account/tokens", data=form).status_code == 201
    mail = session.scalars(sa.select(EmailMessage).where(EmailMessage.kind == "token-created")).one()
    assert mail.recipient == user.email
    assert mail.context["scopes"] == ["profile:read"]
    assert "evil" not in str(mail.context)


@pytest.mark.parametrize("way", ["set_role", "panel", "create"])
def test_of_a_new_admin_the_other_admins_are_mailed_and_who_became_one(app, client, session, way):
    first, second, gone = make_user(Role.ADMIN), make_user(Role.ADMIN), make_user(Role.ADMIN, active=False)
    user = make_user(school_id=make_school().id)
    expected = {first.email, second.email, user.email}
    if way == "set_role":
        assert app.test_cli_runner().invoke(args=["users", "set-role", user.username, "admin"]).exit_code == 0
        assert app.test_cli_runner().invoke(args=["users", "set-role", user.username, "admin"]).exit_code == 0
    elif way == "panel":
        log_in(client, first)
        page = f"/admin/users/edit/?id={user.id}"
        shown = shown_in(client.get(page).text)
        assert client.post(page, data=shown | {"role": "admin"}).status_code == 303
    else:
        create = ["--email", "new@example.org", "--username", "new", "--role", "admin", "--password", PASSWORD]
        assert app.test_cli_runner().invoke(args=["users", "create", *create]).exit_code == 0
        expected -= {user.email}  # the new user knows
    recipients = session.scalars(sa.select(EmailMessage.recipient).where(EmailMessage.kind == "admin-added")).all()
    assert sorted(recipients) == sorted(expected)
    assert gone.email not in recipients


def changes_mailed(session, user) -> list[str]:
    query = sa.select(EmailMessage).where(EmailMessage.kind == "second-factor-changed").order_by(EmailMessage.id)
    mails = session.scalars(query).all()
    assert {mail.recipient for mail in mails} == {user.email}
    return [mail.context["change"] for mail in mails]
