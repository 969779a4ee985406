"""Sending recorded mails again."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy.orm import Session

from flask_belfry.changes import Actor, use_actor
from flask_belfry.mail import MailNotFoundError, MailState, MailStateError, get_mail, resend, send_mail
from flask_belfry.outbox import JobRecord
from tests.deliveries import CONTEXT, KIND, ask, state_of, work
from tests.smtp import SmtpServer


@pytest.fixture
def settings(settings: dict[str, Any], smtp: SmtpServer) -> dict[str, Any]:
    return settings | smtp.settings | {"MAIL_TIMEOUT_SECONDS": "1", "MAIL_MESSAGE_ID_DOMAIN": "belfry.example"}


def test_a_sent_mail_is_sent_again_with_a_new_message_id(app: Flask, session: Session, smtp: SmtpServer) -> None:
    (mail_id,) = ask(session, "ada")
    work(app, session)
    with use_actor(Actor(user_id=3)):
        job_id = resend(mail_id)
    session.commit()
    assert session.get_one(JobRecord, job_id).user_id == 3
    work(app, session)
    assert len({mail.message["Message-ID"] for mail in smtp.received}) == 2
    assert state_of(mail_id) is MailState.SENT


def test_a_failed_mail_is_sent_again_with_the_same_message_id(app: Flask, session: Session, smtp: SmtpServer) -> None:
    smtp.fail("rcpt", "550 5.6.0 refused", times=1)
    (mail_id,) = ask(session, "ada")
    work(app, session)
    message_id = get_mail(mail_id).message_id
    resend(mail_id)
    session.commit()
    work(app, session)
    assert [mail.message["Message-ID"] for mail in smtp.received] == [message_id]


def test_a_mail_on_its_way_is_not_sent_again(app: Flask, session: Session) -> None:
    (mail_id,) = ask(session, "ada")
    with pytest.raises(MailStateError, match="in progress"):
        resend(mail_id)


def test_a_mail_without_a_recipient_is_not_sent_again(app: Flask, session: Session) -> None:
    mail_id = send_mail(KIND, "nonsense", "test/1", context=CONTEXT)
    assert mail_id is not None
    with pytest.raises(MailStateError, match="not a valid email address"):
        resend(mail_id)


@pytest.mark.parametrize("mail_id", ["nonsense", "00000000-0000-7000-8000-000000000000"])
def test_a_mail_that_is_not_there_is_not_sent_again(app: Flask, mail_id: str) -> None:
    with pytest.raises(MailNotFoundError):
        resend(mail_id)
