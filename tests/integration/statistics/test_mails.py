"""The statistics of mails, with a real SMTP server."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flask_belfry.core.clock import utc_now
from flask_belfry.mail import EmailMessage, MailFigures, MailState, mail_figures, mail_series, send_mail
from tests.deliveries import KIND, ask, state_of, work
from tests.smtp import SmtpServer
from tests.statistics_factories import counted


@pytest.fixture
def settings(settings: dict[str, Any], smtp: SmtpServer) -> dict[str, Any]:
    return settings | smtp.settings


def test_mails_are_counted_by_what_happened_to_them(app, session, smtp):
    smtp.fail("rcpt", "550 5.1.1 unknown", recipient="bob@example.org")
    smtp.fail("rcpt", "450 4.2.1 later", recipient="eve@example.org", times=2)
    ada, bob, eve = ask(session, "ada", "bob", "eve")
    send_mail(KIND, "", "none")
    session.commit()
    for _ in range(3):
        work(app, session)
        counted(session)
    assert [state_of(id) for id in (ada, bob, eve)] == [MailState.SENT, MailState.FAILED, MailState.SENT]
    session.execute(sa.update(EmailMessage).where(EmailMessage.id == ada).values(state="bounced", bounced_at=utc_now()))
    session.execute(sa.update(EmailMessage).where(EmailMessage.id == eve).values(job_id=None))
    session.commit()
    counted(session)
    expected = MailFigures(KIND, accepted=3, sent=2, deferred=1, failed=1, bounced=1, skipped=1)
    assert mail_figures(utc_now() - timedelta(hours=1)) == [expected]
    found = mail_series(["sent"], utc_now() - timedelta(hours=1), kind=KIND)["sent"]
    assert (sum(value or 0 for _, value in found), len(found)) == (2, 60)
