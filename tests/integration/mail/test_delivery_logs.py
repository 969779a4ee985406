"""What a failed delivery logs: no mailbox, and nothing of a mail's content."""

from __future__ import annotations

from typing import Any

import pytest
import structlog

from tests.deliveries import KIND, ask, work
from tests.smtp import SmtpServer


@pytest.fixture
def settings(settings: dict[str, Any], smtp: SmtpServer) -> dict[str, Any]:
    return settings | smtp.settings | {"MAIL_TIMEOUT_SECONDS": "1", "MAIL_MESSAGE_ID_DOMAIN": "belfry.example"}


def test_a_failed_attempt_is_logged_without_the_mailbox(app, session, smtp):
    smtp.fail("rcpt", "550 5.1.1 <Ada@example.org>: ada is unknown, adam is known")
    (mail_id,) = ask(session, "ada")
    with structlog.testing.capture_logs() as lines:
        work(app, session)
    (line,) = [line for line in lines if line["event"] == "mail.attempt_failed"]
    assert line == {
        "event": "mail.attempt_failed",
        "log_level": "warning",
        "mail": mail_id,
        "kind": KIND,
        "domain": "example.org",
        "state": "failed",
        "error": "AddressRefusedError",
        "reply": "the server refused the recipient: 550 5.1.1 <…@…>: … is unknown, adam is known",
    }


def test_what_a_template_fails_over_is_not_logged(app, session, smtp):
    ask(session, "ada", context={"nothing": "of use"})
    with structlog.testing.capture_logs() as lines:
        work(app, session)
    (line,) = [line for line in lines if line["event"] == "mail.attempt_failed"]
    assert (line["error"], "reply" in line) == ("MailTemplateError", False)
