"""Personal data: all of it is exported on demand, and none of it identifies a user after the account was deleted."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa

from app.accounts import AccessToken, LoginSession, Role, User, forget_deleted, issue_personal_token, profile
from app.accounts.limits import LOGINS
from app.accounts.models import AccountCode, Channel, MessagePreference
from app.audit import AuditEntry
from app.personal_data import accounted_for, parts
from app.reservations import Reservation, ReservationStatus
from flask_belfry.changes import StatusChange
from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base, db
from flask_belfry.mail import EmailMessage, MailState, close_connections, send_notice
from tests.everything import everything_kept
from tests.integration.accounts.test_security import set_up_second_factor
from tests.reservation_factories import (
    PASSWORD,
    bearer,
    log_in,
    make_reservation,
    make_school,
    make_user,
    tomorrow,
)
from tests.simultaneous import at_once

ME, EXPORT = "/api/v1/me", "/api/v1/me/export"
PAGE = "/account/delete"
PROOF = {"password": PASSWORD}
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def settings(settings, smtp):
    return settings | {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": str(smtp.port)}


@pytest.fixture
def app(app):
    yield app
    close_connections()


@pytest.fixture
def user(app):
    """Zarathustra, with some of everything that is kept of people."""
    user = make_user(
        username="zarathustra", name="Zarathustra", email="zarathustra@example.org", time_zone="Asia/Tehran"
    )
    user.last_login_ip = user.current_login_ip = "192.0.2.7"
    row = MessagePreference()
    row.user_id, row.kind, row.channel, row.is_wanted = user.id, "notice", Channel.PUSH, False
    db.session.add(row)
    issue_personal_token(user, "Zarathustras script", ["read"])
    to_come, confirmed, past, cancelled = (
        make_reservation(user, note=f"Zarathustras note {number}", start_time=tomorrow() + timedelta(hours=number))
        for number in range(4)
    )
    confirmed.status = ReservationStatus.CONFIRMED
    past.start_time = utc_now() - timedelta(days=3)
    cancelled.status = ReservationStatus.CANCELLED
    to_come.note = "Zarathustras other note"
    send_notice(user.email, "notice/1", title="Dear Zarathustra", text="It rains.")
    db.session.commit()
    return user


@pytest.fixture
def headers(user):
    return bearer(user)


def statuses(user_id: int) -> list[str]:
    db.session.rollback()
    query = sa.select(Reservation.status).where(Reservation.customer_id == user_id).order_by(Reservation.id)
    return [status.value for status in db.session.scalars(query)]


# ── Nothing is forgotten ─────────────────────────────────────────────────────────────────────────────────────────


@on_sqlite
def test_every_column_that_names_a_user_is_in_a_part_or_exempt_for_a_reason(app):
    naming = {
        f"{mapper.local_table.name}.{column.name}"
        for mapper in Base.registry.mappers
        for column in mapper.local_table.columns
        if column.name.endswith("user_id") or any(key.column.table.name == "users" for key in column.foreign_keys)
    }
    assert len(naming) > 5
    assert naming - accounted_for() == set(), (
        "each of these columns is registered in the personal.py of its slice: in a Part, or with exempt(…)"
    )
    assert accounted_for() - naming == set(), "these columns of a personal.py do not name a user any more"


# ── What is given out ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_person_gets_all_that_is_kept_and_no_secret(client, user, headers, session):
    make_reservation(note="The note of another")
    answer = client.get(EXPORT, headers=headers)
    assert answer.status_code == 200
    name = f'attachment; filename="belfry-zarathustra-{utc_now():%Y-%m-%d}.json"'
    assert (answer.mimetype, answer.headers["Content-Disposition"]) == ("application/json", name)
    assert "no-store" in answer.headers["Cache-Control"]
    data = answer.json["data"]
    assert data.keys() == {part.name for part in parts()}
    assert data["account"]["profile"]["email"] == user.email
    assert data["account"]["preferences"] == [{"kind": "notice", "channel": "push", "is_wanted": False}]
    assert [token["name"] for token in data["account"]["tokens"]] == ["Zarathustras script", "login"]
    assert [row["status"] for row in data["reservations"]] == ["pending", "confirmed", "pending", "cancelled"]
    assert data["reservations"][0]["note"] == "Zarathustras other note"
    kinds = ["token-created", "reservation-status", "reservation-status", "notice"]
    assert [mail["kind"] for mail in data["mails"]] == kinds
    assert "Somebody" not in answer.text
    session.refresh(user)
    hashes = session.scalars(sa.select(AccessToken.hash)).all()
    for secret in (user.password_hash, user.fs_uniquifier, *hashes):
        assert secret not in answer.text
    assert session.scalars(sa.select(AuditEntry.action).where(AuditEntry.user_id == user.id)).all() == ["user.export"]


@on_sqlite
def test_the_page_gives_the_same_file(client, user, headers):
    by_page = log_in(client, user).post("/account/export")
    by_api = client.get(EXPORT, headers=headers)
    assert by_page.headers["Content-Disposition"] == by_api.headers["Content-Disposition"]
    assert by_page.json["data"]["mails"] == by_api.json["data"]["mails"]
    assert "user.login" in {event["action"] for event in by_api.json["data"]["log"]["events"]}


@on_sqlite
@pytest.mark.parametrize(("method", "path"), [("GET", EXPORT), ("DELETE", ME)])
def test_no_script_gets_everything_or_deletes_its_user(client, user, method, path):
    text, _ = issue_personal_token(user, "script", ["read", "write"])
    db.session.commit()
    answer = client.open(path, method=method, json=PROOF, headers={"Authorization": f"Bearer {text}"})
    assert answer.status_code == 403


# ── Leaving ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_deleted_account_identifies_no_one(app, client, user, headers, session, work, smtp):
    user_id, school_id = user.id, user.school_id
    other = log_in(app.test_client(), user)
    answer = client.delete(ME, json=PROOF, headers=headers)
    assert (answer.status_code, answer.data) == (204, b"")

    # What lets in is over, at once.
    assert client.get(ME, headers=headers).status_code == 401
    assert other.get("/reservations/").status_code == 302
    for login in ("zarathustra", "zarathustra@example.org"):
        assert client.post("/login", data={"login": login, "password": PASSWORD}).status_code == 422
    for model in (AccessToken, AccountCode, LoginSession, MessagePreference):
        assert session.scalars(sa.select(model).where(model.user_id == user_id)).all() == []

    # Future reservations are cancelled and recorded; no mail is sent.
    assert statuses(user_id) == ["cancelled", "cancelled", "pending", "cancelled"]
    changed = sa.select(StatusChange.user_id).where(StatusChange.new == "cancelled").order_by(StatusChange.id)
    assert session.scalars(changed).all() == [None, user_id, user_id]
    farewell = session.scalars(sa.select(EmailMessage).where(EmailMessage.kind == "account-deleted")).one()
    assert forget_deleted(session) == 0  # it is yet to be sent
    session.commit()
    work()
    assert [mail.recipients for mail in smtp.received if "admin@example.org" not in mail.recipients] == [
        ("zarathustra@example.org",)
    ]
    session.refresh(farewell)
    assert farewell.state is MailState.SENT
    assert "Zarathustra" not in smtp.received[-1].body("plain").replace("zarathustra@example.org", "")

    # The last personal data is deleted when the last mail was sent.
    assert forget_deleted(session) == 1
    session.commit()
    kept = everything_kept()
    assert "zarathustra" not in kept.lower()
    assert "192.0.2.7" not in kept
    assert "Asia/Tehran" not in kept
    stays = session.get_one(User, user_id)
    assert (stays.name, stays.email, stays.active, stays.school_id) == ("Deleted user", "", False, school_id)
    done = sa.select(AuditEntry.action, AuditEntry.ip_address).where(AuditEntry.user_id == user_id)
    assert ("user.delete_data", None) in session.execute(done).all()
    assert {row.ip_address for row in session.execute(done)} == {None}

    # Username and email are free again.
    again = {"username": "zarathustra", "email": "zarathustra@example.org", "password": PASSWORD}
    assert client.post("/api/v1/auth/register", json=again).status_code == 201


@on_sqlite
def test_mails_that_wait_are_not_sent_and_what_stays_still_shows(client, user, headers, session, work, smtp):
    row = session.scalars(sa.select(Reservation).where(Reservation.status == ReservationStatus.CONFIRMED)).one()
    waits = session.scalars(sa.select(EmailMessage).where(EmailMessage.kind == "notice")).one()
    row_id, mail_id = row.id, waits.id
    client.delete(ME, json=PROOF, headers=headers)
    log_in(client, make_user(Role.ADMIN))
    page = client.get(f"/mails/{mail_id}")
    assert "the recipient has deleted the account" in page.text
    assert "was deleted" in client.get(f"/mails/{mail_id}/html").text
    history = client.get(f"/reservations/{row_id}")
    assert "Deleted user" in history.text
    assert "note: no longer kept" in history.text
    assert "no email address" in history.text  # why no mail was sent for the cancellation
    assert client.get("/reservations/?text=Deleted").status_code == 200
    assert client.get("/audit?action=user.delete_data").text.count("Deleted user") == 1
    work()
    assert session.scalar(sa.select(EmailMessage.state).where(EmailMessage.id == mail_id)) is MailState.SKIPPED


@on_sqlite
def test_a_mail_under_way_when_its_reader_leaves_is_not_tried_again(client, user, headers, session, work, smtp):
    # Its worker died over it, or the server cut the connection: its job begins again.
    session.execute(sa.update(EmailMessage).where(EmailMessage.kind == "notice").values(state=MailState.SENDING))
    session.commit()
    client.delete(ME, json=PROOF, headers=headers)
    work()
    mail = session.scalars(sa.select(EmailMessage).where(EmailMessage.kind == "notice")).one()
    assert (mail.state, mail.recipients) == (MailState.SKIPPED, [])


@on_sqlite
def test_the_desks_mails_stay_when_a_user_with_its_email_is_deleted(app, client, session):
    desk = make_user(email="admin@example.org")
    make_reservation()
    client.delete(ME, json=PROOF, headers=bearer(desk))
    mail = session.scalars(sa.select(EmailMessage).where(EmailMessage.kind == "reservation-new")).one()
    assert (mail.recipients, mail.state) == (["admin@example.org"], MailState.QUEUED)


@on_sqlite
def test_what_is_anothers_stays(client, user, headers, session):
    other = make_user(school_id=make_school().id)
    theirs = make_reservation(other, note="Mine")
    send_notice(other.email, "notice/2", title="News", text="It rains.")
    session.commit()
    token = bearer(other)
    client.delete(ME, json=PROOF, headers=headers)
    assert client.get(ME, headers=token).json["username"] == other.username
    session.refresh(theirs)
    assert (theirs.note, theirs.status) == ("Mine", "pending")
    notice = session.scalars(sa.select(EmailMessage).where(EmailMessage.unique_key == "notice/2")).one()
    assert (notice.recipients, notice.state) == ([other.email], MailState.QUEUED)


@on_sqlite
def test_who_it_is_is_asked_again(client, user, headers):
    for body, field in (({"password": "wrong"}, "password"), ({}, "password"), (PROOF | {"sure": True}, "sure")):
        answer = client.delete(ME, json=body, headers=headers)
        assert (answer.status_code, list(answer.json["errors"])) == (422, [field])
    for _ in range(LOGINS.times):
        answer = client.delete(ME, json={"password": "wrong"}, headers=headers)
    assert answer.status_code == 429
    assert client.delete(ME, json=PROOF, headers=headers).status_code == 429
    assert statuses(user.id)[0] == "pending"


@on_sqlite
def test_a_second_factor_is_asked_for_too(client, user, headers, clock):
    log_in(client, user)
    factor = set_up_second_factor(client)
    clock.shift(60)
    assert 'name="code"' in client.get(PAGE).text
    for proof in ({}, {"code": "000000"}):
        answer = client.delete(ME, json=PROOF | proof, headers=headers)
        assert (answer.status_code, list(answer.json["errors"])) == (422, ["code"])
        refused = client.post(PAGE, data=PROOF | proof)
        assert refused.status_code == 422
        assert "authenticator app" in refused.text
    code = factor.generate(clock.shift(60) or utc_now()).token
    assert client.delete(ME, json=PROOF | {"code": code}, headers=headers).status_code == 204


@on_sqlite
def test_the_page_says_what_will_happen_and_does_it(client, user):
    log_in(client, user)
    page = client.get(PAGE)
    assert all(part.outcome in page.text for part in parts())
    assert 'name="code"' not in page.text
    assert client.post(PAGE, data={"password": "wrong"}).status_code == 422
    done = client.post(PAGE, data=PROOF)
    assert (done.status_code, done.location) == (303, "/login")
    assert "Your account was deleted." in client.get("/login").text
    assert client.get("/account").status_code == 302


def test_an_admin_stays(app, client, session, monkeypatch):
    first, second = make_user(Role.ADMIN), make_user(Role.ADMIN)
    make_user(Role.ADMIN, active=False)
    both_are_in, tokens = threading.Barrier(2), [bearer(first), bearer(second)]
    prove = profile.prove

    def wait_for_the_other(*args):
        prove(*args)
        db.session.rollback()
        both_are_in.wait(20)

    monkeypatch.setattr(profile, "prove", wait_for_the_other)
    taken = iter(tokens)
    answers = at_once(app, 2, lambda client: client.delete(ME, json=PROOF, headers=next(taken)))
    assert sorted(answer.status_code for answer in answers) == [204, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert "only admin" in refused.json["message"]
    session.rollback()
    left = sa.select(sa.func.count()).where(User.role == Role.ADMIN, User.active)
    assert session.scalar(left) == 1


@on_sqlite
def test_the_last_admin_reads_on_the_page_why_not(client):
    log_in(client, make_user(Role.ADMIN))
    answer = client.post(PAGE, data=PROOF)
    assert answer.status_code == 409
    assert "This is the only admin" in answer.text
