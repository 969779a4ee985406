"""The mails about groups of failures: one for new and regressed groups, none for each failure or for ignored groups."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.accounts import Role, User
from app.accounts.preferences import change_preferences
from flask_belfry.core.clock import utc_now
from flask_belfry.mail import EmailMessage, MailState
from flask_belfry.operations.failure_emails import KIND, MAX_SHOWN
from flask_belfry.outbox import JobRecord
from flask_belfry.statistics import FailureGroup, FailureState
from tests.ledger import contexts, mails
from tests.reservation_factories import make_school, make_user
from tests.smtp import SmtpServer
from tests.statistics_factories import attempt, counted, record

CAUSE, OTHER = "a" * 16, "b" * 16
ONCE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def settings(settings: dict[str, Any], smtp: SmtpServer) -> dict[str, Any]:
    return settings | {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": str(smtp.port)}


@pytest.fixture
def admin(client: object) -> User:
    return make_user(Role.ADMIN, email="admin@example.org")


def fail(session: Session, cause: str = CAUSE, **columns: Any) -> None:
    """Add a job whose attempt has failed now, as a worker writes it."""
    id = record(session, utc_now(), fingerprint=cause, **columns)
    values = {"fingerprint": cause, "frame": "app/a.py:send", "error_type": "ValueError", "error_message": "for Anna"}
    attempt(session, id, utc_now(), **values)
    session.commit()


def context_of(mail: EmailMessage) -> Mapping[str, Any]:
    """What the templates are given."""
    found = contexts(KIND, [mail])[mail.id]
    assert found is not None
    return found


def set_state(session: Session, state: FailureState) -> None:
    session.execute(sa.update(FailureGroup).values(state=state, changed_at=utc_now()))
    session.commit()


def fail_again(session: Session, clock: Any) -> None:
    clock.shift(20)
    fail(session)
    counted(session)


def events(session: Session) -> list[str]:
    """The types of the webhooks, in their order."""
    session.rollback()
    query = sa.select(JobRecord).where(JobRecord.name == "operations.deliver_webhook").order_by(JobRecord.id)
    return [json.loads(job.args["body"])["type"] for job in session.scalars(query)]


def test_one_mail_for_a_new_group_and_one_when_it_has_regressed(admin, session, clock, smtp, work):
    for _ in range(5):
        fail(session)
    counted(session)
    fail_again(session, clock)
    (mail,) = mails(KIND)
    assert mail.recipients == [admin.email]
    work()
    (sent,) = smtp.received
    assert sent.message["Subject"] == "New failure: ValueError in test.act"
    text = sent.message.get_body(("plain",)).get_content()
    group = session.scalars(sa.select(FailureGroup)).one()
    assert f"/jobs/failures/{group.id}" in text
    assert "Anna" not in text, "messages of errors may contain personal data"
    set_state(session, FailureState.RESOLVED)
    fail_again(session, clock)
    fail_again(session, clock)
    assert [context_of(each)["title"] for each in mails(KIND)] == [
        "New failure: ValueError in test.act",
        "Failing again: ValueError in test.act",
    ]


@ONCE
def test_webhooks_are_sent_besides(app, admin, session, clock):
    app.config["WEBHOOK_URLS"] = ["https://hooks.example/"]
    fail(session)
    counted(session)
    set_state(session, FailureState.IGNORED)
    fail_again(session, clock)
    set_state(session, FailureState.RESOLVED)
    fail_again(session, clock)
    assert events(session) == ["failures.new", "failures.regressed"]
    assert len(mails(KIND)) == 2


@ONCE
def test_an_ignored_group_causes_no_mail_and_one_that_waits_is_skipped(admin, session, clock, work):
    fail(session)
    counted(session)
    set_state(session, FailureState.IGNORED)
    fail_again(session, clock)
    work()
    (mail,) = mails(KIND)
    assert (mail.state, mail.last_error) == (MailState.SKIPPED, "the failures were ignored or resolved")


@ONCE
def test_groups_that_are_found_together_are_one_mail(admin, session, clock):
    for number in range(MAX_SHOWN + 2):
        fail(session, f"{number:016d}")
    counted(session)
    (mail,) = mails(KIND)
    context = context_of(mail)
    assert (context["title"], len(context["groups"]), context["more"]) == ("22 failures of jobs", MAX_SHOWN, 2)


@ONCE
def test_operators_are_mailed_about_their_school_only_and_other_staff_not(admin, session, clock):
    one, other = make_school(), make_school()
    operators = [make_user(Role.STAFF, may_operate=True, school_id=each.id) for each in (one, other)]
    make_user(Role.STAFF, school_id=one.id, may_operate=False)
    make_user(Role.STAFF, may_operate=True, school_id=one.id, active=False)
    fail(session, CAUSE, school_id=one.id)
    fail(session, OTHER, school_id=one.id)
    fail(session, CAUSE, school_id=other.id)
    fail(session)
    counted(session)
    found = {mail.recipients[0]: (mail.school_id, len(mail.context["groups"])) for mail in mails(KIND)}
    assert found == {
        admin.email: (None, 4),
        operators[0].email: (one.id, 2),
        operators[1].email: (other.id, 1),
    }


@ONCE
def test_who_opts_out_gets_none(admin, session, clock, smtp, work):
    change_preferences(admin, {KIND: {"mail": False}})
    fail(session)
    counted(session)
    work()
    assert [mail.state for mail in mails(KIND)] == [MailState.SKIPPED]
    assert smtp.received == []


@ONCE
def test_the_mails_are_those_of_the_transaction_that_opens_the_group(admin, session, clock, monkeypatch):
    monkeypatch.setattr("flask_belfry.operations.failure_emails.send_mails", _refuse)
    fail(session)
    with pytest.raises(RuntimeError):
        counted(session)
    session.rollback()
    assert session.scalars(sa.select(FailureGroup)).all() == []
    monkeypatch.undo()
    counted(session)
    assert len(mails(KIND)) == 1


def _refuse(*_: object) -> None:
    raise RuntimeError("not now")
