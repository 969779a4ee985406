"""Which mails of a chunk wait for the hold of their domain."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest

from flask_belfry.core.clock import utc_now
from flask_belfry.mail.domain_holds import Hold
from flask_belfry.mail.models import MailEntry, MailState
from flask_belfry.mail.outcomes import ChunkMail, Outcomes

HOLD = Hold("example.org", 0, "550 5.7.1 no", utc_now() + timedelta(minutes=15))


@pytest.mark.parametrize(
    ("email", "state", "expected"),
    [
        ("ada@example.org", MailState.QUEUED, HOLD),
        ("ada@Example.org", MailState.DEFERRED, HOLD),
        ("ada@example.com", MailState.QUEUED, None),
        # Their state must record that they may have been sent.
        ("ada@example.org", MailState.SENDING, None),
        ("ada@example.org", MailState.UNCERTAIN, None),
    ],
)
def test_unsent_mails_wait_for_the_hold_of_their_domain(email: str, state: MailState, expected: Hold | None) -> None:
    outcomes = Outcomes(cast(Any, None), _held={HOLD.domain: HOLD})
    mail = ChunkMail(cast(Any, None), MailEntry("1", "notice", [email], state=state))
    assert outcomes.hold_of(mail) is expected
