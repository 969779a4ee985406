"""Codes and links: hashed at rest, working for a while, used once, tried five times. And the pages that take them."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa
import time_machine

from app.accounts import AccessToken, LoginAddress, User, codes, create_user, issue_personal_token, registration
from app.accounts.models import AccountCode, CodePurpose
from app.audit.models import AuditEntry
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope
from flask_belfry.mail import EmailMessage, send_notice
from flask_belfry.mail.previews import render_mail
from flask_belfry.outbox import JobRecord
from tests.reservation_factories import PASSWORD, bearer, log_in, make_user

ONLY_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
CONFIRM, RESET = CodePurpose.CONFIRM, CodePurpose.RESET


def claim(name: str = "ada") -> User:
    """A user who has yet to confirm the address."""
    return make_user(username=name, email="ada@example.org", confirmed_at=None)


def sent(user: User, purpose: CodePurpose = CONFIRM) -> AccountCode:
    """A code whose mail has left."""
    code = codes.issue(user, purpose)
    codes.start(db.session(), purpose, [code.id])
    db.session.commit()
    return code


def wrong(code: AccountCode) -> str:
    """Six digits that are not the code's."""
    return f"{(int(codes.digits_of(code)) + 1) % 1_000_000:06d}"


def confirms(digits: str) -> bool:
    try:
        registration.confirm_by_digits("Ada@Example.org ", digits)
    except InvalidInputError:
        return False
    return True


def opens(token: str) -> bool:
    try:
        registration.confirm_by_token(token)
    except InvalidInputError:
        return False
    return True


def test_a_code_confirms_once_with_spaces_or_without(session):
    code = sent(claim())
    digits = codes.digits_of(code)
    assert confirms(f" {digits[:3]} {digits[3:]} ")
    assert session.get_one(User, code.user_id).is_confirmed
    assert not confirms(digits)
    assert not opens(codes.token_of(code))


def test_after_five_wrong_tries_the_digits_are_over_and_the_link_goes_on(session):
    code = sent(claim())
    assert [confirms(wrong(code)) for _ in range(codes.MAX_TRIES)] == [False] * codes.MAX_TRIES
    assert not confirms(codes.digits_of(code))
    assert opens(codes.token_of(code))


def test_a_try_runs_the_same_statements_and_writes_a_row_whether_or_not_the_address_is_known(
    client, session, statements
):
    digits = wrong(sent(claim()))
    make_user(email="confirmed@example.org")
    make_user(email="without@example.org", confirmed_at=None)
    seen = []
    for email in ("ada", "confirmed", "without", "unknown"):
        session.rollback()
        statements.clear()
        body = {"email": f"{email}@example.org", "code": digits}
        assert client.post("/api/v1/auth/confirm", json=body).status_code == 422
        seen.append(list(statements))
    assert seen == [seen[0]] * 4
    with use_scope(ALL_TENANTS):
        tries = session.scalars(sa.select(AuditEntry.action)).all()
    assert tries.count("user.code_tried") == 4


def test_a_confirmation_clears_what_was_set_up_before(app, client, session):
    user = claim()
    other, program = log_in(app.test_client(), user), bearer(user)
    log_in(client, user)
    issue_personal_token(user, "script", ["profile:read"])
    user.tf_primary_method, user.tf_totp_secret = "authenticator", "planted"
    digits = codes.digits_of(sent(user))
    assert client.post("/confirm", data={"email": user.email, "code": digits}).location == "/start"
    assert client.get("/account").status_code == 200, "the session that confirms goes on"
    assert other.get("/account").location.startswith("/login")
    assert client.get("/api/v1/me", headers=program).status_code == 401
    session.refresh(user)
    assert (user.tf_primary_method, user.tf_totp_secret) == (None, None)
    assert session.scalars(sa.select(AccessToken.id).where(AccessToken.revoked_at.is_(None))).all() == []


@ONLY_SQLITE
@pytest.mark.parametrize(("address", "trusted"), [("198.51.100.7", []), ("198.51.100.9", ["198.51.100.9"]), (None, [])])
def test_a_confirmation_trusts_only_the_address_from_which_it_comes(app, client, session, address, trusted):
    """The registration trusts its own; who made it and who reads the mailbox may be two people."""
    fields = {"username": "ada", "email": "ada@example.org", "password": PASSWORD}
    client.post("/api/v1/auth/register", json=fields, environ_base={"REMOTE_ADDR": "198.51.100.9"})
    user = session.scalars(sa.select(User)).one()
    networks = sa.select(LoginAddress.network).where(LoginAddress.user_id == user.id)
    assert session.scalars(networks).all() == ["198.51.100.9"]
    if address:
        link = f"/confirm/{codes.token_of(sent(user))}"
        assert client.post(link, environ_base={"REMOTE_ADDR": address}).status_code == 302
    else:
        assert app.test_cli_runner().invoke(args=["users", "confirm", "ada"]).exit_code == 0
    session.expire_all()
    assert user.is_confirmed
    assert session.scalars(networks).all() == trusted


@ONLY_SQLITE
def test_the_login_of_the_api_that_confirms_goes_on(client, session):
    user = claim()
    headers, other = bearer(user), bearer(user)
    body = {"email": user.email, "code": codes.digits_of(sent(user))}
    assert client.post("/api/v1/auth/confirm", json=body, headers=headers).status_code == 200
    assert client.get("/api/v1/me", headers=headers).status_code == 200
    assert client.get("/api/v1/me", headers=other).status_code == 401


@ONLY_SQLITE
def test_the_fifth_try_may_be_the_right_one(session):
    code = sent(claim())
    assert not any(confirms(wrong(code)) for _ in range(codes.MAX_TRIES - 1))
    assert confirms(codes.digits_of(code))


@ONLY_SQLITE
def test_a_code_works_from_its_mail_on_for_as_long_as_the_setting_says(app, session):
    code = codes.issue(claim(), CONFIRM)
    session.commit()
    assert not confirms(codes.digits_of(code))  # its mail has not left
    codes.start(session, CONFIRM, [code.id])
    session.commit()
    minutes = app.config["CONFIRMATION_CODE_MINUTES"]
    with time_machine.travel(utc_now() + timedelta(minutes=minutes, seconds=1)):
        assert not confirms(codes.digits_of(code))
        assert not opens(codes.token_of(code))
        codes.start(session, CONFIRM, [code.id])  # the mail is sent again
        session.commit()
        assert confirms(codes.digits_of(code))


@ONLY_SQLITE
def test_a_newer_code_ends_the_older_one_also_when_that_is_sent_again(session):
    user = claim()
    old, new = sent(user), sent(user)
    codes.start(session, CONFIRM, [old.id])
    session.commit()
    assert not opens(codes.token_of(old))
    assert opens(codes.token_of(new))


@ONLY_SQLITE
def test_a_code_is_for_one_purpose_and_for_who_may_log_in(session):
    reset = sent(make_user(), RESET)
    assert not opens(codes.token_of(reset))
    disabled = sent(claim())
    disabled.user.active = False
    session.commit()
    assert not opens(codes.token_of(disabled))
    assert not confirms(codes.digits_of(disabled))


@ONLY_SQLITE
def test_another_secret_key_makes_other_codes(app, session):
    code = sent(claim())
    before = codes.digits_of(code), codes.token_of(code)
    app.config["SECRET_KEY"] = "another-secret-key-that-is-only-good-for-tests"
    assert codes.digits_of(code) != before[0]
    assert codes.token_of(code) != before[1]


def test_of_two_who_use_a_link_at_the_same_time_one_does(app, session):
    code = sent(claim())
    token = codes.token_of(code)
    session.rollback()
    assert sorted(_in_parallel(app, lambda: opens(token), 4)) == [False, False, False, True]


def test_parallel_guesses_are_counted_each(app, session):
    code = sent(claim())
    guess = wrong(code)
    session.rollback()
    assert not any(_in_parallel(app, lambda: confirms(guess), 8))
    session.refresh(code)
    assert code.tries == codes.MAX_TRIES


def test_of_two_users_with_one_email_the_first_to_confirm_is_confirmed(app, session):
    tokens = [codes.token_of(sent(claim(name))) for name in ("ada", "ada2")]
    session.rollback()
    assert sorted(_in_parallel(app, lambda: opens(tokens.pop()), 2)) == [False, True]
    assert session.scalar(sa.select(sa.func.count()).where(User.confirmed_at.is_not(None))) == 1


@ONLY_SQLITE
def test_codes_that_are_over_are_pruned(session):
    old = sent(claim())
    new = sent(make_user())
    old.created_at, old.expires_at = (utc_now() - timedelta(days=8),) * 2
    session.commit()
    assert codes.prune(session) == 1
    assert session.scalars(sa.select(AccountCode.id)).all() == [new.id]


def _in_parallel(app, call, times: int) -> list[bool]:
    def run(_: int) -> bool:
        with app.app_context():
            return call()

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(run, range(times)))


# ── Pages ────────────────────────────────────────────────────────────────────────────────────────────────────────


@ONLY_SQLITE
def test_the_pages_lead_from_a_registration_to_the_first_page(client, session):
    answer = client.post("/register", data={"username": "ada", "email": "ada@example.org", "password": PASSWORD})
    assert answer.location == "/confirm"
    page = client.get("/confirm").text
    assert "The mail with your code is being sent." in page
    assert "ada@example.org" in page
    (code,) = session.scalars(sa.select(AccountCode))
    codes.start(session, CONFIRM, [code.id])
    session.commit()
    refused = client.post("/confirm", data={"email": "ada@example.org", "code": wrong(code)})
    assert refused.status_code == 422
    assert "This code does not work" in refused.text
    answer = client.post("/confirm", data={"email": "ada@example.org", "code": codes.digits_of(code)})
    assert answer.location == "/start"
    assert client.get("/start").location == "/reservations/"
    assert "Your email address is confirmed." in client.get("/reservations/").text


@ONLY_SQLITE
def test_to_look_at_a_link_uses_nothing_up(client, session):
    code = sent(claim())
    path = f"/confirm/{codes.token_of(code)}"
    for _ in range(3):
        assert "Confirm this email address" in client.get(path).text
    session.refresh(code)
    assert code.used_at is None
    assert not code.user.is_confirmed
    assert client.post(path).status_code == 302
    assert client.get(path).status_code == client.post(path).status_code == 410
    assert "Request a new link" in client.get("/reset-password/nothing").text


@ONLY_SQLITE
def test_a_wrong_field_of_a_form_is_said_beside_it(client, session):
    make_user(username="taken")
    answer = client.post("/register", data={"username": "taken", "email": "ada@example.org", "password": PASSWORD})
    assert answer.status_code == 422
    assert "Already taken." in answer.text
    answer = client.post("/register", data={"username": "ada", "email": "<b>@x", "password": "short"})
    assert "Must have 8 to 200 characters." in answer.text
    assert "<b>@x" not in answer.text


@ONLY_SQLITE
def test_a_new_password_by_the_pages(client, session):
    user = make_user()
    assert client.post("/forgot-password", data={"email": user.email}).location == "/login"
    assert session.scalars(sa.select(JobRecord.args)).all() == [{"user_id": user.id}]
    path = f"/reset-password/{codes.token_of(sent(user, RESET))}"
    assert user.username in client.get(path).text
    assert client.post(path, data={"password": "short"}).status_code == 422
    assert client.post(path, data={"password": "a new password"}).location == "/login"
    assert client.get(path).status_code == 410
    assert client.post("/login", data={"login": user.username, "password": "a new password"}).status_code == 302


@ONLY_SQLITE
def test_who_claims_an_address_can_ask_for_another_code_there(client, session):
    user = create_user(username="ada", email="ada@example.org", password=PASSWORD, is_confirmed=False)
    session.commit()
    log_in(client, user)
    assert "Send another code" in client.get("/confirm").text
    assert client.post("/resend-confirmation", data={"email": user.email}).location == "/confirm"
    (mail,) = session.scalars(sa.select(EmailMessage))
    assert (mail.kind, mail.recipients) == ("confirmation", [user.email])
    assert re.fullmatch(r"confirmation/\d+", mail.unique_key)


@ONLY_SQLITE
def test_a_notice_has_its_text_and_no_more(session):
    title, text = "Closed\r\nBcc: all@example.org", "A <b>pipe</b>\nhas burst.\n\n\nSorry."
    mail_id = send_notice("ada@example.org", "notice/1", title=title, text=text, path="/reservations")
    session.commit()
    rendered = render_mail(session.get_one(EmailMessage, mail_id))
    assert rendered.subject == "Closed Bcc: all@example.org"
    assert "A <b>pipe</b> has burst.\n\nSorry.\n" in rendered.text
    assert "A &lt;b&gt;pipe&lt;/b&gt; has burst." in rendered.html
    assert "/reservations" in rendered.html
