"""Values of mails that are checked when they are enqueued."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
import sqlalchemy as sa

from flask_belfry.changes import Subject
from flask_belfry.core.clock import utc_now
from flask_belfry.mail import EmailMessage, MailArgumentError, MailRequest, MailState, send_mail, send_mails
from flask_belfry.outbox import JobArgumentError

INVALID_MAILS = {
    "key": [lambda key=key: send_mail("notice", "a@example.org", key) for key in ("", "k" * 251, "k\0", "\ud800")],
    "subject.id": [lambda: send_mail("notice", "a@example.org", "m", subject=Subject("ticket", "9" * 41))],
    "change_id": [lambda: send_mail("notice", "a@example.org", "m", change_id="no uuid")],
    "context": [
        lambda value=value: send_mail("notice", "a@example.org", "m", context={"text": value})
        for value in (math.nan, [math.inf], utc_now(), {1})
    ],
    "delay": [lambda: send_mail("notice", "a@example.org", "m", delay=timedelta.max)],
}


def test_what_some_database_would_not_take_of_a_mail_is_refused_before_anything_is_written(session):
    for field, actions in INVALID_MAILS.items():
        for action in actions:
            with pytest.raises((MailArgumentError, JobArgumentError), match="must be") as refused:
                action()
            assert list(refused.value.fields) == [field]
    assert session.scalars(sa.select(EmailMessage)).all() == []


def test_an_invalid_email_address_is_recorded_as_skipped_in_a_form_that_can_be_stored(session):
    given = ["x" * 400, "İ" * 320, "a\0@example.org", "a\ud800@example.org", "a@\ud800.org"]
    send_mails("notice", [MailRequest([email], f"m/{number}") for number, email in enumerate(given)])
    send_mails("notice", [MailRequest(given, "all")])
    session.commit()
    mails = session.scalars(sa.select(EmailMessage)).all()
    assert {mail.state for mail in mails} == {MailState.SKIPPED}
    assert {mail.recipients[0] for mail in mails} == {
        *("x" * 320, "İ" * 320, "a\ufffd@example.org", "a@\ufffd.org"),
    }
