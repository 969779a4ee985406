"""Sending recorded mails again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
import time_machine
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from app.accounts import Role
from flask_belfry.changes import Actor, use_actor
from flask_belfry.core.clock import utc_now
from flask_belfry.mail import (
    EmailMessage,
    MailArgumentError,
    MailNotFoundError,
    MailRequest,
    MailState,
    MailStateError,
    get_mail,
    resend,
    retry_mails,
    send_mail,
    send_mails,
)
from flask_belfry.outbox import JobRecord, retry
from tests.deliveries import CONTEXT, KIND, ask, job_of, state_of, work
from tests.reservation_factories import log_in, make_user
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


def test_a_mail_whose_job_is_retried_is_queued_until_it_is_sent(app: Flask, session: Session, smtp: SmtpServer) -> None:
    smtp.fail("rcpt", "550 5.6.0 refused", times=1)
    (mail_id,) = ask(session, "ada")
    work(app, session)
    mail = get_mail(mail_id)
    assert (mail.state, mail.last_error is None) == (MailState.FAILED, False)
    assert retry([mail.job_id or ""]) == [mail.job_id]
    assert (mail.state, mail.last_error) == (MailState.QUEUED, None)
    session.commit()
    work(app, session)
    assert state_of(mail_id) is MailState.SENT
    assert [each.message_id for each in smtp.received] == [mail.message_id]


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


def expiring(session: Session, number: int = 1) -> list[str]:
    """Send mails that expire in an hour, and commit."""
    requests = [
        MailRequest([f"{count}@example.org"], f"test/{count}", CONTEXT, expires_at=utc_now() + timedelta(hours=1))
        for count in range(number)
    ]
    ids = send_mails(KIND, requests)
    session.commit()
    return ids


def test_a_mail_that_is_sent_again_expires_when_it_did_before(
    app: Flask, client: FlaskClient, session: Session, smtp: SmtpServer, clock: time_machine.Coordinates
) -> None:
    fault = smtp.fail("rcpt", "550 5.6.0 refused")
    ids = expiring(session, 4)
    expires_at = get_mail(ids[0]).expires_at
    work(app, session)
    assert {state_of(id) for id in ids} == {MailState.FAILED}
    resend(ids[0])
    session.execute(sa.update(EmailMessage).where(EmailMessage.id == ids[1]).values(job_id=None))
    assert retry_mails(ids[1:3]) == set(ids[1:3])
    session.commit()
    assert [job_of(session, id).expires_at for id in ids[:2]] == [expires_at] * 2
    smtp.mend(fault)
    clock.shift(timedelta(hours=1))
    # The jobs are retried without their times; the mails keep theirs.
    retry([job_of(session, id).id for id in ids])
    session.commit()
    work(app, session)
    assert [(state_of(id), get_mail(id).last_error) for id in ids] == [
        (MailState.CANCELLED, "it had expired before it was sent")
    ] * 4
    assert retry_mails(ids) == set()
    with pytest.raises(MailStateError, match=rf"it expired at {expires_at:%Y-%m-%d %H:%M:%S} UTC"):
        resend(ids[0])
    log_in(client, make_user(Role.ADMIN))
    assert "Send again" not in client.get(f"/mails/{ids[0]}").text
    assert smtp.received == []


def test_retried_mails_without_jobs_are_all_sent(app: Flask, session: Session, smtp: SmtpServer) -> None:
    smtp.fail("rcpt", "550 5.6.0 refused", times=3)
    ids = ask(session, "ada", "bob", "eve")
    work(app, session)
    session.execute(sa.update(EmailMessage).where(EmailMessage.id.in_(ids[:2])).values(job_id=None))
    session.commit()
    assert retry_mails(ids) == set(ids)
    session.commit()
    work(app, session)
    assert {state_of(id) for id in ids} == {MailState.SENT}


def test_an_invalid_expiry_is_refused(app: Flask) -> None:
    request = MailRequest(["ada@example.org"], "test/ada", CONTEXT, expires_at=utc_now().replace(tzinfo=None))
    with pytest.raises(MailArgumentError, match="expires_at: must be an aware datetime"):
        send_mails(KIND, [request])


def test_a_mail_without_a_recipient_is_not_sent_again(app: Flask, session: Session) -> None:
    mail_id = send_mail(KIND, "nonsense", "test/1", context=CONTEXT)
    assert mail_id is not None
    with pytest.raises(MailStateError, match="not a valid email address"):
        resend(mail_id)


@pytest.mark.parametrize("mail_id", ["nonsense", "00000000-0000-7000-8000-000000000000"])
def test_a_mail_that_is_not_there_is_not_sent_again(app: Flask, mail_id: str) -> None:
    with pytest.raises(MailNotFoundError):
        resend(mail_id)


def test_a_mail_that_was_sent_meanwhile_is_not_retried(app: Flask, session: Session, smtp: SmtpServer) -> None:
    smtp.fail("rcpt", "550 5.6.0 refused", times=1)
    (mail_id,) = ask(session, "ada")
    work(app, session)
    # Another request has found it failed too, and its job has ended before this one has locked it.
    assert retry_mails([mail_id]) == {mail_id}
    session.commit()
    work(app, session)
    assert state_of(mail_id) is MailState.SENT
    assert retry_mails([mail_id]) == set()
    session.commit()
    work(app, session)
    assert len(smtp.received) == 1
