"""Text of users in pages and mails: markup is shown as typed, and a line break adds no header."""

from __future__ import annotations

import html
import re

import pytest
import sqlalchemy as sa

from app.accounts import Role, issue_personal_token, registration, services
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.mail import EmailMessage, send_notice
from flask_belfry.mail.previews import render_mail
from tests.reservation_factories import PASSWORD, log_in, make_reservation, make_resource, make_user, tomorrow

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
SMUGGLED = "\r\nBcc: eve@example.org"
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def settings(settings):
    """Rate limits are off: web/test_rate_limits.py is about them."""
    return settings | {"RATE_LIMITS_ENABLED": "false"}


ADA = {"username": "ada", "email": "ada@example.org", "password": PASSWORD}
# Who looks where; {…} is an id.
PAGES = (
    *(
        "/",
        "/reservations/",
        "/reservations/{row}",
        "/reservations/{ended}",
        "/reservations/{ended}/history",
        "/reservations/{row}/edit",
    ),
    *("/reservations/new", "/reservations/day/{day}", "/mails", "/mails/{mail}", "/audit", "/account/tokens", "/jobs/"),
    *("/reservations/?text={script}", "/mails?text={script}", "/audit?user={script}", "/jobs/?text={script}"),
    *("/mails/{mail}/html", "/login?next={script}", "/no-such-page/{script}"),
)


def test_markup_in_names_and_texts_is_shown_as_it_was_typed(client, session):
    staff = make_user(Role.STAFF, name=f"Staff {SCRIPT}")
    customer = make_user(name=f"Ada {SCRIPT}", username="ada", email='"ada&<b>"@example.org')
    room = make_resource(name=f"Room {SCRIPT}")
    row = make_reservation(customer, resource=room, note=f"Note {SCRIPT} </textarea>{SCRIPT}")
    row.status = "confirmed"
    issue_personal_token(staff, f"Token {SCRIPT}", ["read"])
    session.commit()
    log_in(client, staff)
    ended = make_reservation(customer, note=SCRIPT)
    client.post(f"/reservations/{ended.id}/status", data={"status": "cancelled"})
    about_row = EmailMessage.kind == "reservation-new", EmailMessage.subject_id == str(row.id)
    mail = session.scalars(sa.select(EmailMessage).where(*about_row)).one()
    named = {"row": row.id, "ended": ended.id, "mail": mail.id, "day": tomorrow().date(), "script": SCRIPT}
    shown = [client.get(path.format(**named)) for path in PAGES]
    assert {answer.status_code for answer in shown} == {200, 302, 404}
    assert [path for path, answer in zip(PAGES, shown, strict=True) if SCRIPT in answer.text] == []
    everything = "".join(answer.text for answer in shown)
    for what in ("Ada", "Staff", "Room", "Note", "Token"):
        assert html.escape(f"{what} {SCRIPT}") in everything, what
    assert '"ada&<b>"@' not in everything


def test_markup_in_names_and_texts_stays_text_in_mails(app, session):
    customer = make_user(name=f"Ada {SCRIPT}")
    row = make_reservation(customer, resource=make_resource(name=f"Room {SCRIPT}"), note=f"Note {SCRIPT}")
    row.status = "confirmed"
    registration.confirm(make_user(confirmed_at=None, name=f"Bob {SCRIPT}"))
    services.change_password(customer, "another password")
    send_notice("ada@example.org", "notice/1", title=f"Title {SCRIPT}", text=f"Text {SCRIPT}")
    session.commit()
    mails = session.scalars(sa.select(EmailMessage)).all()
    assert {mail.kind for mail in mails} == {
        "reservation-new", "reservation-status", "welcome", "password-changed", "notice",
    }  # fmt: skip
    for mail in mails:
        rendered = render_mail(mail)
        assert SCRIPT in rendered.text or SCRIPT in rendered.subject, mail.kind
        assert SCRIPT not in rendered.html, mail.kind
        assert html.escape(SCRIPT) in rendered.html, mail.kind


def test_a_line_break_makes_no_header(app, session):
    with pytest.raises(InvalidInputError):
        services.create_user(**ADA, name=f"Ada\x00{SMUGGLED}")
    user = services.create_user(**ADA, name=f"Ada{SMUGGLED}")
    assert user.name == "Ada Bcc: eve@example.org"
    mail_id = send_notice(f"ada@example.org{SMUGGLED}", "notice/1", title="To no one", text="x")
    session.commit()
    assert session.get_one(EmailMessage, mail_id).state == "skipped"
    # Rows that were written past all validation.
    row = make_reservation(make_user(name=f"Eve{SMUGGLED}"), resource=make_resource(name=f"Room{SMUGGLED}"))
    row.status = "confirmed"
    send_notice("ada@example.org", "notice/2", title=f"Closed{SMUGGLED}", text="x")
    session.commit()
    for mail in session.scalars(sa.select(EmailMessage).where(EmailMessage.state == "queued")):
        subject = render_mail(mail).subject
        assert not re.search(r"[\r\n]", subject), mail.kind
