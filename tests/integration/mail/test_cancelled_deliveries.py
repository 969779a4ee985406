"""Cancelled deliveries and their mails."""

from __future__ import annotations

from typing import Any

import pytest

from flask_belfry.core.clock import utc_now
from flask_belfry.execution import executor
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.mail import MailState, get_mail, resend
from flask_belfry.mail.queries import find_mails
from flask_belfry.mail.search import parse
from flask_belfry.outbox import JobState, cancel
from tests.deliveries import ask, claim_due, die_after_handing_over, job_of, state_and_count, state_of, work
from tests.smtp import SmtpServer


@pytest.fixture
def settings(settings: dict[str, Any], smtp: SmtpServer) -> dict[str, Any]:
    return settings | smtp.settings | {"MAIL_TIMEOUT_SECONDS": "1", "MAIL_MESSAGE_ID_DOMAIN": "belfry.example"}


def test_cancelling_a_delivery_that_waits_cancels_its_mail(app, session, smtp):
    (mail_id,) = ask(session, "ada")
    cancel([get_mail(mail_id).job_id])
    session.commit()
    session.expire_all()
    assert (state_of(mail_id), get_mail(mail_id).last_error) == (MailState.CANCELLED, None)
    assert [mail.id for mail in find_mails(parse("state:cancelled", now=utc_now())).items] == [mail_id]
    assert work(app, session) is None
    assert smtp.received == []
    resend(mail_id)
    session.commit()
    work(app, session)
    assert state_of(mail_id) is MailState.SENT


def test_cancelling_a_delivery_that_runs_cancels_its_mail_when_it_would_be_tried_again(app, session, smtp):
    smtp.fail("rcpt", "450 later")
    (mail_id,) = ask(session, "ada")
    items = claim_due(session)
    cancel([items[0].id])
    session.commit()
    executor.run(app, items, no_limit)
    session.expire_all()
    assert (state_of(mail_id), job_of(session, mail_id).state) == (MailState.CANCELLED, JobState.CANCELLED)
    assert "450" in (get_mail(mail_id).last_error or "")


def test_cancelling_a_delivery_whose_worker_died_over_it_leaves_its_mail_uncertain(app, session, smtp, monkeypatch):
    (mail_id,) = ask(session, "ada")
    die_after_handing_over(app, session, monkeypatch)
    cancel([get_mail(mail_id).job_id])
    session.commit()
    session.expire_all()
    assert state_and_count(mail_id) == (MailState.UNCERTAIN, 1)
