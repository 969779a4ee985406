"""Registering over the API with a real broker and a real mail server, and with either or both of them really away."""

from __future__ import annotations

import re
import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa

from app.accounts import Role, User, authenticate, get_user, prune_unconfirmed
from app.accounts.models import AccountCode
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.execution import claim as claims
from flask_belfry.mail import EmailMessage, MailState
from flask_belfry.outbox import JobRecord, JobState, publisher
from flask_belfry.outbox.relay import relay
from flask_belfry.outbox.states import TIMED, WAITING
from flask_belfry.workers.threaded import ThreadedWorker
from tests.everything import everything_kept
from tests.job_records import state_of
from tests.reservation_factories import PASSWORD, bearer, make_user
from tests.servers import wait_until
from tests.smtp import HANG, SmtpServer

API = "/api/v1/auth"
ADA = {"username": "ada", "email": "ada@example.org", "password": PASSWORD}


@pytest.fixture
def settings(settings, smtp, another):
    return settings | smtp.settings | {"REDIS_URL": another.url, "REGISTRATION_DIRECT_MAIL_SECONDS": "20"}


@pytest.fixture
def app(app):
    yield app
    db.session.rollback()  # on SQLite, an open transaction blocks the threads that send
    wait_until(lambda: not any(thread.name == "direct-mail" for thread in threading.enumerate()))


@pytest.fixture
def arrive(session, another, monkeypatch):
    """Makes every job's time come, relays what is missing at the broker, and lets a worker do it all."""
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the worker's handlers would outlive it

    def arrive() -> None:
        waits = sa.select(JobRecord.id).where(JobRecord.state.in_(WAITING))
        while session.scalars(waits).all():  # a job may send a mail, whose job is another
            long_ago = utc_now() - timedelta(seconds=10)
            session.execute(sa.update(JobRecord).values(created_at=long_ago))
            session.execute(sa.update(JobRecord).where(JobRecord.state.in_(TIMED)).values(scheduled_at=long_ago))
            session.commit()
            relay(publisher())
            ThreadedWorker(["mail", "default", "bulk"], connection=another.client()).work(burst=True)
        session.expire_all()

    return arrive


def register(client, **fields):
    return client.post(f"{API}/register", json=ADA | fields)


def test_who_never_confirms_is_gone_after_a_month_and_the_username_is_free(client, session):
    month = utc_now() - timedelta(days=31)
    register(client)
    old = session.scalars(sa.select(User)).one()
    old.created_at = month
    confirmed = make_user(created_at=month)
    deleted = make_user(created_at=month, active=False, confirmed_at=None)
    session.commit()
    recent = register(client, username="grace", email="grace@example.org").json["user_data"]["id"]
    assert prune_unconfirmed(session) == 1
    session.commit()
    assert set(session.scalars(sa.select(User.id))) == {confirmed.id, deleted.id, recent}
    assert register(client).status_code == 201


def code_in(mail) -> str:
    found = re.search(r"^ +(\d{3} \d{3})\r?$", mail.body("plain"), re.MULTILINE)
    assert found, mail.body("plain")
    return found[1]


def link_in(mail, page: str) -> str:
    found = re.search(rf"http://\S+(/{page}/\S+)", mail.body("plain"))
    assert found, mail.body("plain")
    return found[1]


def mails_to(smtp: SmtpServer, address: str) -> list[str]:
    return [mail.message["Subject"] for mail in smtp.received if address in mail.recipients]


# ── The three answers ────────────────────────────────────────────────────────────────────────────────────────────


def test_with_the_broker_the_mail_is_queued_for_two_seconds_later_and_confirms(client, session, smtp, arrive):
    answer = register(client)
    assert answer.status_code == 201
    assert answer.json["email_info"] == {"email_queued": True, "message": "The mail with your code is being sent."}
    assert answer.json["email_confirmation_sent"] is True
    assert answer.json["user_data"]["username"] == "ada"
    assert answer.json["user_data"]["is_confirmed"] is False
    (job,) = session.scalars(sa.select(JobRecord))
    assert job.state is JobState.SCHEDULED
    assert job.scheduled_at - job.created_at == pytest.approx(timedelta(seconds=2), abs=timedelta(seconds=0.2))
    assert smtp.connections == 0

    arrive()
    (mail,) = smtp.received
    assert client.post(f"{API}/confirm", json={"email": ADA["email"], "code": code_in(mail)}).json["is_confirmed"]
    arrive()
    assert mails_to(smtp, ADA["email"]) == ["Confirm your email address", "Welcome to Belfry"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_mail_server_that_hangs_does_not_matter_to_a_registration(client, session, smtp):
    smtp.fail("connect", HANG)
    assert register(client).json["email_info"]["email_queued"] is True
    assert smtp.connections == 0


def test_without_the_broker_the_mail_is_sent_from_the_web_process_once(client, session, smtp, another, arrive):
    another.stop()
    answer = register(client)
    assert answer.status_code == 201
    assert answer.json["email_info"] == {"email_queued": False, "email_sent": True}
    assert answer.json["email_confirmation_sent"] is True
    (mail,) = smtp.received
    (job,) = session.scalars(sa.select(JobRecord))
    assert (job.state, job.attempt) == (JobState.COMPLETED, 1)
    another.start()
    arrive()
    assert len(smtp.received) == 1
    assert client.post(f"{API}/confirm", json={"email": ADA["email"], "code": code_in(mail)}).status_code == 200


def test_without_broker_and_mail_server_the_user_exists_and_the_mail_comes_when_they_are_back(
    client, session, smtp, another, arrive
):
    another.stop()
    smtp.stop()
    answer = register(client)
    assert answer.status_code == 201
    info = answer.json["email_info"]
    assert (info["email_sent"], info["email_queued"], info["can_resend"]) == (False, False, True)
    assert info["error"]
    assert answer.json["email_confirmation_sent"] is False
    assert answer.json["user_data"]["username"] == "ada"

    another.start()
    smtp.start()
    arrive()
    (mail,) = smtp.received
    assert client.post(f"{API}/confirm", json={"email": ADA["email"], "code": code_in(mail)}).status_code == 200
    arrive()
    assert mails_to(smtp, ADA["email"]) == ["Confirm your email address", "Welcome to Belfry"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_hanging_mail_server_and_no_broker_delay_no_request_and_the_mail_is_sent_once(
    app, client, session, smtp, another
):
    app.config["REGISTRATION_DIRECT_MAIL_SECONDS"] = 0.7
    another.stop()
    fault = smtp.fail("data", HANG)
    answer = register(client)
    assert answer.json["email_info"]["can_resend"] is True
    (job_id,) = session.scalars(sa.select(JobRecord.id))
    session.rollback()
    assert claims.claim(session, [job_id], "another worker") == []  # still being sent: the response did not wait for it
    smtp.mend(fault)
    wait_until(lambda: state_of(session, job_id) is JobState.RETRYABLE)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_who_is_logged_in_can_have_the_mail_sent_again_without_the_broker(client, session, smtp, another):
    another.stop()
    smtp.stop()
    token = register(client).json["access_token"]
    smtp.start()
    headers = {"Authorization": f"Bearer {token}"}
    answer = client.post(f"{API}/resend-confirmation", json={"email": ADA["email"]}, headers=headers)
    assert answer.status_code == 202
    (mail,) = smtp.received
    assert client.post(f"{API}/confirm", json={"email": ADA["email"], "code": code_in(mail)}).status_code == 200


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_with_mail_switched_off_nothing_is_promised(app, client, session):
    app.config["MAIL_ENABLED"] = False
    info = register(client).json["email_info"]
    assert (info["email_queued"], info["email_sent"], info["can_resend"]) == (False, False, True)
    assert session.scalar(sa.select(EmailMessage.state)) is MailState.SUPPRESSED


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_registration_that_is_refused_leaves_nothing(client, session):
    make_user(username="Ada")
    users = session.scalar(sa.select(sa.func.count()).select_from(User))
    answer = register(client)
    assert answer.status_code == 422
    assert answer.json["errors"] == {"username": ["already taken"]}
    assert register(client, role="admin").json["errors"].keys() == {"role"}
    assert register(client, username="x", email="nowhere", password="short").json["errors"].keys() == {
        "username", "email", "password",
    }  # fmt: skip
    assert session.scalar(sa.select(sa.func.count()).select_from(User)) == users
    assert session.scalars(sa.select(EmailMessage)).all() == []


# ── Who has not confirmed ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_who_has_not_confirmed_sees_nothing(client, session):
    headers = {"Authorization": f"Bearer {register(client).json['access_token']}"}
    for path in ("/api/v1/me", "/api/v1/reservations", "/api/v1/reservations/1"):
        assert client.get(path, headers=headers).status_code == 403, path
    body = {"start_time": (utc_now() + timedelta(days=1)).isoformat()}
    assert client.post("/api/v1/reservations", json=body, headers=headers).status_code == 403
    assert client.post("/login", data={"login": "ada", "password": PASSWORD}).location == "/start"
    for path in ("/start", "/", "/reservations/", "/mails", "/jobs/"):
        assert client.get(path).location == "/confirm", path


# ── What is not revealed ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_taken_email_is_answered_as_a_free_one_and_its_owner_is_notified(client, session, smtp, arrive):
    make_user(email=ADA["email"], name="The Owner")
    free, taken = register(client, username="free", email="free@example.org"), register(client)
    assert taken.status_code == free.status_code
    assert taken.json.keys() == free.json.keys()
    for name in ("email_info", "message", "email_confirmation_sent"):
        assert taken.json[name] == free.json[name]
    # Else a login would tell.
    for email in ("free@example.org", ADA["email"]):
        assert client.post(f"{API}/login", json={"email": email, "password": PASSWORD}).status_code == 200
    arrive()
    assert mails_to(smtp, ADA["email"]) == ["You already have an account"]
    for code in session.scalars(sa.select(AccountCode).join(AccountCode.user).where(User.username == "ada")):
        assert code.expires_at is None  # it never works


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_owner_of_an_address_comes_first_by_it(client, session):
    owner = make_user(email=ADA["email"])
    register(client, password="another password")
    assert authenticate(ADA["email"], PASSWORD) is owner
    assert authenticate(ADA["email"], "another password").username == "ada"
    assert authenticate(ADA["email"], "a wrong password") is None


def test_of_several_who_claim_an_address_one_gets_it(client, session, smtp, arrive):
    register(client)
    register(client, username="ada2")
    arrive()
    first, second = (code_in(mail) for mail in smtp.received)
    assert client.post(f"{API}/confirm", json={"email": ADA["email"], "code": second}).status_code == 200
    assert client.post(f"{API}/confirm", json={"email": ADA["email"], "code": first}).status_code == 422
    confirmed = session.scalars(sa.select(User).where(User.confirmed_at.is_not(None))).all()
    assert len(confirmed) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "typed", ["Ada@xn--bcher-kva.example", "ada@bu\N{COMBINING DIAERESIS}cher.example", "ada@BÜCHER。example"]
)
def test_an_address_is_the_same_however_its_domain_is_written(client, session, smtp, arrive, typed):
    register(client, email=typed)
    arrive()
    user = session.scalars(sa.select(User)).one()
    assert user.email == "ada@bücher.example"
    assert client.post(f"{API}/resend-confirmation", json={"email": typed}).status_code == 202
    arrive()
    body = {"email": typed, "code": code_in(smtp.received[-1])}
    assert client.post(f"{API}/confirm", json=body).status_code == 200
    assert client.post(f"{API}/login", json={"username": typed, "password": PASSWORD}).status_code == 200
    assert client.post("/login", data={"login": typed, "password": PASSWORD}).status_code == 302
    assert get_user(typed) is user
    client.post(f"{API}/password-reset", json={"email": typed})
    arrive()
    assert mails_to(smtp, "ada@xn--bcher-kva.example")[-1] == "Choose a new password"


# ── A forgotten password ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_forgotten_password_is_replaced_and_everything_ends(client, session, smtp, arrive):
    user = make_user(email=ADA["email"])
    headers = bearer(user)
    client.post("/login", data={"login": user.username, "password": PASSWORD})
    assert client.post(f"{API}/password-reset", json={"email": ADA["email"]}).status_code == 202
    assert client.post(f"{API}/password-reset", json={"email": "nobody@example.org"}).status_code == 202
    arrive()
    (mail,) = smtp.received
    token = link_in(mail, "reset-password").rpartition("/")[2]
    body = {"token": token, "password": "a new password"}
    assert client.post(f"{API}/password-reset/confirm", json=body | {"password": "short"}).status_code == 422
    assert client.post(f"{API}/password-reset/confirm", json=body).status_code == 200
    assert client.post(f"{API}/password-reset/confirm", json=body).status_code == 422
    assert client.get("/api/v1/me", headers=headers).status_code == 401
    assert client.get("/reservations/").location.startswith("/login")
    assert authenticate(ADA["email"], "a new password") is not None
    arrive()
    assert mails_to(smtp, ADA["email"]) == ["Choose a new password", "Your password was changed"]


# ── At rest ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_code_and_token_stand_in_no_table_no_broker_and_no_log(app, client, session, smtp, another, arrive, caplog):
    staff = make_user(Role.ADMIN)
    register(client)
    arrive()
    (mail,) = smtp.received
    digits, token = code_in(mail), link_in(mail, "confirm").rpartition("/")[2]
    rows = everything_kept()
    assert "ada@example.org" in rows, "the search finds nothing"
    broker = another.client()
    kept = [key.decode() + str(broker.dump(key)) for key in broker.keys("*")]
    assert kept
    for text in (rows, *kept, caplog.text):
        for secret in (digits, digits.replace(" ", ""), token):
            assert not re.search(rf"\b{re.escape(secret)}\b", text)
    # Staff who look at the mail see dots.
    client.post("/login", data={"login": staff.username, "password": PASSWORD})
    shown = client.get(f"/mails/{session.scalar(sa.select(EmailMessage.id))}/html").text
    assert "Confirm your email address" in shown
    assert digits not in shown
    assert token not in shown
