"""Sending: which mails are recorded and delivered, and which are skipped or suppressed."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from flask_belfry.changes import Actor, Subject, use_actor
from flask_belfry.mail import (
    EmailMessage,
    MailRequest,
    MailState,
    MailStateError,
    UnknownMailError,
    get_mail,
    resend,
    send_mail,
    send_mails,
)
from flask_belfry.outbox import JobRecord, JobState
from tests.deliveries import CONTEXT, KIND, ask, job_of, jobs, state_of, work
from tests.smtp import SmtpServer


@pytest.fixture
def settings(settings: dict[str, Any], smtp: SmtpServer) -> dict[str, Any]:
    return settings | smtp.settings | {"MAIL_TIMEOUT_SECONDS": "1", "MAIL_MESSAGE_ID_DOMAIN": "belfry.example"}


def test_a_mail_that_was_asked_for_arrives(app: Flask, session: Session, smtp: SmtpServer) -> None:
    (mail_id,) = ask(session, "ada")
    work(app, session)
    (received,) = smtp.received
    mail = get_mail(mail_id)
    assert received.recipients == ("ada@example.org",)
    assert received.message["Message-ID"] == mail.message_id == f"<{mail.id}@belfry.example>"
    assert received.message["Subject"] == "A test message from Belfry"
    assert "mail.example.org" in received.body("plain")
    assert "style=" in received.body("html")
    assert mail.state is MailState.SENT
    assert mail.attempts == 1
    assert mail.sent_at is not None
    assert job_of(session, mail_id).state is JobState.COMPLETED


def test_a_rolled_back_transaction_asks_for_nothing(app: Flask, session: Session, smtp: SmtpServer) -> None:
    send_mail(KIND, "ada@example.org", "test/1", context=CONTEXT)
    session.rollback()
    work(app, session)
    assert smtp.received == []
    assert jobs(session) == 0
    assert session.scalar(sa.select(sa.func.count()).select_from(EmailMessage)) == 0


def test_the_same_key_asks_for_one_mail_only(app: Flask, session: Session, smtp: SmtpServer) -> None:
    first = ask(session, "ada")
    assert ask(session, "ada", "ada") == []
    work(app, session)
    assert len(first) == len(smtp.received) == jobs(session) == 1


def test_each_person_gets_a_mail_of_their_own(app: Flask, session: Session, smtp: SmtpServer) -> None:
    request = MailRequest(["ada@example.org", "bob@example.org", "ADA@example.org"], "test/1", CONTEXT)
    assert len(send_mails(KIND, [request])) == 2
    assert send_mails(KIND, [MailRequest(list(reversed(request.to)), request.key, CONTEXT)]) == []
    session.commit()
    work(app, session)
    assert sorted(mail.recipients for mail in smtp.received) == [("ada@example.org",), ("bob@example.org",)]
    assert sorted(mail.message["To"] for mail in smtp.received) == ["ada@example.org", "bob@example.org"]


def test_who_has_no_valid_address_is_skipped_with_the_reason(app: Flask, session: Session, smtp: SmtpServer) -> None:
    requests = [MailRequest([to], f"test/{to}", CONTEXT) for to in ("nonsense", None)]
    nonsense, missing, empty = send_mails(KIND, [*requests, MailRequest([], "test/empty", CONTEXT)])
    session.commit()
    assert {state_of(id) for id in (nonsense, missing, empty)} == {MailState.SKIPPED}
    assert "not a valid email address" in (get_mail(nonsense).last_error or "")
    assert get_mail(missing).last_error == get_mail(empty).last_error == "no email address"
    assert jobs(session) == 0


def test_a_mail_knows_what_it_is_about_and_who_caused_it(session: Session) -> None:
    with use_actor(Actor(user_id=7)):
        id = send_mail(KIND, "ada@example.org", "k", context=CONTEXT, subject=Subject("reservation", "42"))
    session.commit()
    mail = get_mail(id)
    job = job_of(session, mail.id)
    assert (mail.subject_type, mail.subject_id, mail.user_id) == ("reservation", "42", 7)
    assert (job.subject_type, job.subject_id, job.user_id) == ("reservation", "42", 7)
    assert job.args == {"email_id": mail.id}


def test_an_unknown_kind_is_refused_when_it_is_asked_for(app: Flask) -> None:
    with pytest.raises(UnknownMailError):
        send_mail("nonsense", "ada@example.org", "test/1")


def test_switched_off_mail_is_recorded_as_suppressed(app: Flask, session: Session, smtp: SmtpServer) -> None:
    app.config["MAIL_ENABLED"] = False
    (mail_id,) = ask(session, "ada")
    assert state_of(mail_id) is MailState.SUPPRESSED
    assert jobs(session) == 0
    with pytest.raises(MailStateError, match="MAIL_ENABLED is false"):
        resend(mail_id)
    app.config["MAIL_ENABLED"] = True
    resend(mail_id)
    session.commit()
    work(app, session)
    assert state_of(mail_id) is MailState.SENT


def test_mail_that_is_switched_off_after_it_was_asked_for_is_not_sent(
    app: Flask, session: Session, smtp: SmtpServer
) -> None:
    (mail_id,) = ask(session, "ada")
    app.config["MAIL_ENABLED"] = False
    work(app, session)
    assert state_of(mail_id) is MailState.SUPPRESSED
    assert smtp.received == []


def test_a_kind_that_comes_in_large_numbers_is_delivered_after_those_that_people_wait_for(session: Session) -> None:
    ask(session, "ada")
    send_mail("work-item-due", "ada@example.org", "due/1")
    session.commit()
    assert list(session.scalars(sa.select(JobRecord.queue).order_by(JobRecord.id))) == ["mail", "bulk"]
