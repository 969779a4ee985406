"""Opt-outs: mails that recipients opted out of are skipped at delivery, with the reason recorded."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.accounts.models import Channel, MessagePreference
from app.accounts.registration import request_password_reset
from app.reservations import ReservationStatus
from app.schools import default_school
from flask_belfry.changes import for_school
from flask_belfry.db import db
from flask_belfry.mail import EmailMessage, MailState, close_connections, resend, send_notice
from flask_belfry.mail.previews import preview
from flask_belfry.mail.registry import kinds, optional_kinds
from tests.reservation_factories import log_in, make_reservation, make_school, make_user

REASON = "the recipient opted out of this kind of mail"
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def settings(settings, smtp):
    return settings | {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": str(smtp.port)}


@pytest.fixture
def app(app):
    yield app
    close_connections()


def refuse(user, kind: str = "notice", channel: Channel = Channel.MAIL) -> None:
    row = MessagePreference()
    row.user_id, row.kind, row.channel, row.is_wanted = user.id, kind, channel, False
    db.session.add(row)
    db.session.commit()


def notify(*addresses: str) -> dict[str, str]:
    """Asks for a notice of the first school to each; the ids by address."""
    with for_school(default_school().id):
        asked = {
            address: send_notice(address, f"notice/{address}", title="News", text="It rains.") for address in addresses
        }
    db.session.commit()
    return {address: id for address, id in asked.items() if id}


def state_of(mail_id: str) -> tuple[MailState, str | None]:
    db.session.rollback()
    mail = db.session.get_one(EmailMessage, mail_id, populate_existing=True)
    return mail.state, mail.last_error


def test_only_what_is_wanted_is_sent(app, work, smtp):
    refuses, refuses_push, refuses_another, wants = (make_user() for _ in range(4))
    elsewhere = make_user(school_id=make_school().id)
    refuse(refuses)
    refuse(elsewhere)
    refuse(refuses_push, channel=Channel.PUSH)
    refuse(refuses_another, kind="reservation-status")
    people = (refuses, refuses_push, refuses_another, wants, elsewhere)
    asked = notify(*[user.email for user in people], "stranger@example.org")
    opted_out = {asked.pop(refuses.email), asked.pop(elsewhere.email)}
    work()
    assert {mail.recipients[0] for mail in smtp.received} == asked.keys()
    assert {state_of(id) for id in opted_out} == {(MailState.SKIPPED, REASON)}
    assert {state_of(id) for id in asked.values()} == {(MailState.SENT, None)}


@on_sqlite
def test_a_change_of_a_reservation_is_mailed_unless_the_recipient_opted_out(app, session, work, smtp):
    rows = [make_reservation(), make_reservation()]
    refuse(rows[0].customer, "reservation-status")
    address = rows[1].customer.email
    for row in rows:
        row.status = ReservationStatus.CONFIRMED
    session.commit()
    work()
    assert [mail.recipients for mail in smtp.received if "admin@example.org" not in mail.recipients] == [(address,)]


@on_sqlite
def test_what_is_about_the_account_always_goes_out(app, work, smtp):
    user = make_user()
    for kind in ("password-reset", "password-changed", "confirmation"):
        refuse(user, kind)
    request_password_reset(user.email)
    work()
    assert [mail.recipients for mail in smtp.received] == [(user.email,)]


@on_sqlite
def test_no_mail_about_the_account_is_a_choice(app):
    about = {kind.name for kind in kinds() if kind.contexts.__module__.startswith("app.accounts.")}
    assert about >= {"login-new-address", "password-changed", "second-factor-changed", "token-created", "admin-added"}
    assert about & optional_kinds().keys() == set()


@on_sqlite
def test_who_only_claims_an_address_decides_nothing_for_its_owner(app, work, smtp):
    owner = make_user()
    refuse(make_user(email=owner.email, confirmed_at=None))
    notify(owner.email)
    work()
    assert len(smtp.received) == 1


@on_sqlite
def test_an_address_counts_however_it_is_written(app, work, smtp):
    refuse(make_user(email="ada@bücher.example"))
    refuse(make_user(email="grace@example.org"))
    asked = notify("ada@bücher.example", "Grace@Example.org")
    work()
    assert smtp.received == []
    assert {state_of(id) for id in asked.values()} == {(MailState.SKIPPED, REASON)}


@on_sqlite
def test_the_footer_links_to_the_page_of_opt_outs(app, client):
    link = re.search(rf"{app.config['PUBLIC_URL']}(/\S+)#(\S+)", preview("notice").text)
    page = log_in(client, make_user()).get(link[1]).text
    assert f'id="{link[2]}"' in page
    assert 'value="notice.mail"' in page


@on_sqlite
def test_opt_outs_are_looked_up_once_for_an_optional_kind_and_never_for_others(app, work, smtp, statements):
    users = [make_user() for _ in range(5)]
    notify(*[user.email for user in users])
    request_password_reset(users[0].email)
    statements.clear()
    work()
    assert len(smtp.received) == 6
    assert sum("message_preferences" in statement for statement in statements) == 1


@on_sqlite
def test_a_mail_that_may_have_left_keeps_saying_so(app, session, work, smtp):
    user = make_user()
    (id,) = notify(user.email).values()
    refuse(user)
    session.execute(sa.update(EmailMessage).values(state=MailState.SENDING))  # its worker died over it
    session.commit()
    work()
    assert state_of(id)[0] is MailState.SENT
    assert session.get_one(EmailMessage, id).uncertain_count == 1


@on_sqlite
def test_staff_read_why_a_mail_was_skipped_and_sending_it_again_asks_again(app, client, session, work, smtp):
    user = make_user()
    refuse(user)
    (id,) = notify(user.email).values()
    work()
    page = log_in(client, make_user(Role.ADMIN)).get(f"/mails/{id}")
    assert REASON in page.text
    resend(id)
    session.commit()
    work()
    assert state_of(id) == (MailState.SKIPPED, REASON)
    session.execute(sa.delete(MessagePreference))
    resend(id)
    session.commit()
    work()
    assert state_of(id) == (MailState.SENT, None)
