"""The page, the commands, the API and the findings of suppressed email addresses and held domains."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from app.accounts import Role
from app.audit import AuditEntry
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.mail import EmailSuppression, MailDomainHold, SuppressionSource, held_domains, suppress
from flask_belfry.operations import problems
from tests.reservation_factories import bearer, log_in, make_user

PAGE, API = "/mails/suppressions", "/api/v1/mails/suppressions"
REPLY = "the server refused the recipient: 550 5.7.26 not authenticated"
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def admin(client: FlaskClient) -> FlaskClient:
    return log_in(client, make_user(Role.ADMIN))


@pytest.fixture
def suppression(app: Flask, session: Session) -> EmailSuppression:
    suppress("ada@example.org", "5.1.1", SuppressionSource.SMTP, reason="550 5.1.1 unknown")
    session.commit()
    return session.scalars(sa.select(EmailSuppression)).one()


@pytest.fixture
def hold(app: Flask, session: Session) -> MailDomainHold:
    now = utc_now()
    row = MailDomainHold(
        domain="example.net", refusals=5, last_reply=REPLY, held_since=now, held_until=now + timedelta(hours=1)
    )
    session.add(row)
    session.add(MailDomainHold(domain="example.com", refusals=4, last_reply=REPLY))
    session.commit()
    return row


def emails(session: Session) -> list[str]:
    session.rollback()
    return list(session.scalars(sa.select(EmailSuppression.email).order_by(EmailSuppression.email)))


def actions(session: Session) -> list[tuple[str, object]]:
    session.rollback()
    query = sa.select(AuditEntry).where(AuditEntry.action.contains("suppression") | AuditEntry.action.contains("hold"))
    return [(entry.action, entry.details) for entry in session.scalars(query.order_by(AuditEntry.id))]


def test_an_admin_adds_searches_and_lifts_on_the_page(
    admin: FlaskClient, session: Session, suppression: EmailSuppression
) -> None:
    path = f"{PAGE}/{suppression.id}/lift"
    assert admin.post(PAGE, data={"email": "Bob@example.org", "reason": "left the school"}).status_code == 303
    page = admin.get(PAGE).text
    assert page.index("bob@example.org") < page.index("ada@example.org")
    for shown in ("left the school", "550 5.1.1 unknown", "Refused by the server", "Added by an admin"):
        assert shown in page
    found = admin.get(f"{PAGE}?text=ADA").text
    assert "ada@example.org" in found
    assert "bob@example.org" not in found
    assert admin.post(path).status_code == 303
    assert emails(session) == ["bob@example.org"]
    assert admin.post(path).status_code == 404
    domain = {"domain": "example.org"}
    assert actions(session) == [("suppression.add", domain), ("suppression.lift", domain)]


@pytest.mark.parametrize(
    ("email", "status", "message"),
    [("nonsense", 422, "ot a valid email address"), ("ADA@example.org", 409, "suppressed already")],
)
def test_what_cannot_be_suppressed_is_shown_at_the_field(
    admin: FlaskClient, session: Session, suppression: EmailSuppression, email: str, status: int, message: str
) -> None:
    answer = admin.post(PAGE, data={"email": email})
    assert (answer.status_code, message in answer.text, f'value="{email}"' in answer.text) == (status, True, True)
    assert emails(session) == ["ada@example.org"]


def test_staff_see_the_addresses_of_their_school_and_change_nothing(
    client: FlaskClient, session: Session, suppression: EmailSuppression, hold: MailDomainHold
) -> None:
    log_in(client, make_user(Role.STAFF))
    page = client.get(PAGE).text
    assert "example.net" in page
    assert "ada@example.org" not in page
    assert "<dialog" not in page
    assert client.post(PAGE, data={"email": "bob@example.org"}).status_code == 403
    assert client.post(f"{PAGE}/{suppression.id}/lift").status_code == 403
    assert client.post(f"{PAGE}/holds/lift", data={"domain": "example.net"}).status_code == 403
    assert emails(session) == ["ada@example.org"]


def test_a_held_domain_is_on_the_page_and_the_overview_until_it_is_lifted(
    admin: FlaskClient, session: Session, hold: MailDomainHold
) -> None:
    for path in (PAGE, "/"):
        page = admin.get(path).text
        assert "example.net" in page
        assert "5.7.26" in page
        assert "example.com" not in page
    assert admin.post(f"{PAGE}/holds/lift", data={"domain": "Example.net"}).status_code == 303
    assert admin.post(f"{PAGE}/holds/lift", data={"domain": "example.com"}).status_code == 404
    assert "5.7.26" not in admin.get("/").text
    assert actions(session) == [("mail_hold.lift", {"domain": "example.net"})]


def test_doctor_names_a_held_domain(app: Flask, session: Session, hold: MailDomainHold) -> None:
    found = {found.part: found for found in problems.check_all(app)}["held domains"]
    assert not found.is_ok
    assert "example.net refuses our mail: " in found.message
    assert REPLY in found.message
    session.delete(hold)
    session.commit()
    assert {found.part: found for found in problems.check_all(app)}["held domains"].is_ok


def test_the_api_lists_adds_and_lifts(client: FlaskClient, session: Session, suppression: EmailSuppression) -> None:
    headers = bearer(make_user(Role.ADMIN))
    added = client.post(API, json={"email": "bob@example.org", "reason": "left"}, headers=headers)
    assert (added.status_code, added.json["source"], added.json["reason"]) == (201, "admin", "left")
    assert client.post(API, json={"email": "bob@example.org"}, headers=headers).status_code == 409
    assert client.post(API, json={"email": "nonsense"}, headers=headers).json["errors"].keys() == {"email"}
    items = client.get(API, headers=headers).json["items"]
    assert [item["email"] for item in items] == ["bob@example.org", "ada@example.org"]
    assert (items[1]["status_code"], items[1]["source"]) == ("5.1.1", "smtp")
    assert client.get(f"{API}?limit=1", headers=headers).json["next_cursor"]
    assert len(client.get(f"{API}?text=ada@", headers=headers).json["items"]) == 1
    assert client.delete(f"{API}/{items[0]['id']}", headers=headers).status_code == 204
    assert client.delete(f"{API}/{items[0]['id']}", headers=headers).status_code == 404
    assert emails(session) == ["ada@example.org"]


def test_the_commands_list_add_and_lift(
    app: Flask, session: Session, suppression: EmailSuppression, hold: MailDomainHold
) -> None:
    def run(*words: str) -> str:
        result = app.test_cli_runner().invoke(args=["mail", *words])
        db.session.rollback()
        return result.stdout if result.exit_code == 0 else f"{result.exit_code} {result.stderr.strip()}"

    assert run("suppressions", "add", "bob@example.org", "--reason", "left") == "bob@example.org is suppressed\n"
    assert [row["email"] for row in json.loads(run("suppressions", "--json"))] == ["bob@example.org", "ada@example.org"]
    assert run("suppressions", "--text", "ada").split()[:3] == ["ada@example.org", "smtp", "5.1.1"]
    assert "is lifted" in run("suppressions", "lift", "Ada@example.org")
    assert run("suppressions", "lift", "ada@example.org") == "1 Error: This email address is not suppressed."
    assert emails(session) == ["bob@example.org"]
    assert [row["domain"] for row in json.loads(run("holds", "--json"))] == ["example.net"]
    assert REPLY in run("holds")
    assert "is lifted" in run("holds", "lift", "example.net")
    assert run("holds", "lift", "example.net") == "1 Error: Mail to example.net is not held."
    assert held_domains() == []
