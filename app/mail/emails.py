"""The mails of this slice itself: the one that `flask mail test` sends."""

from __future__ import annotations

from collections.abc import Sequence

from app.mail.models import MailEntry
from app.mail.registry import Context, mail_kind

TEST_MESSAGE = "test-message"


@mail_kind(TEST_MESSAGE, sample=lambda: {"server": "smtp.example.org"})
def describe_test(entries: Sequence[MailEntry]) -> dict[str, Context]:
    """It says what it was asked to say: the server's name."""
    return {entry.id: entry.context for entry in entries}
