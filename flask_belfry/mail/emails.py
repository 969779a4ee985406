"""The mails of this slice itself: the one that `flask mail test` sends, and the notice, which says what it is told."""

from __future__ import annotations

from collections.abc import Sequence

from flask_belfry.changes import Subject
from flask_belfry.mail.models import MailEntry
from flask_belfry.mail.registry import Context, mail_kind
from flask_belfry.mail.services import send_mail

TEST_MESSAGE = "test-message"
NOTICE = "notice"


def send_notice(
    to: str | None, key: str, *, title: str, text: str, path: str = "", subject: Subject | None = None
) -> str | None:
    """Asks for a mail that needs no kind of its own: a title, some paragraphs, and a way to a page.

    Args:
        to: the address.
        key: what makes this mail unique for ever.
        title: the mail's subject, one line.
        text: paragraphs, separated by blank lines; never HTML.
        path: the page that its button leads to, as `/reservations`; none when empty.
        subject: the row that it is about.

    Returns:
        the ledger id, or None when a mail with this key was asked for before.
    """
    return send_mail(NOTICE, to, key, context={"title": title, "text": text, "path": path}, subject=subject)


@mail_kind(
    TEST_MESSAGE,
    sample=lambda: {"server": "smtp.example.org"},
    reason="an operator ran `flask mail test` with this email address",
)
def describe_test(entries: Sequence[MailEntry]) -> dict[str, Context]:
    """It says what it was asked to say: the server's name."""
    return {entry.id: entry.context for entry in entries}


def sample_notice() -> Context:
    """A piece of news."""
    return _notice("The music room is closed", "A pipe has burst.\n\nIt opens again on Monday.", "/reservations")


@mail_kind(
    NOTICE,
    sample=sample_notice,
    reason="your school sends its news to this email address",
    choice="There is other news from the school",
)
def describe_notice(entries: Sequence[MailEntry]) -> dict[str, Context]:
    """It says what it was asked to say."""
    return {entry.id: _notice(**entry.context) for entry in entries}


def _notice(title: str, text: str, path: str) -> Context:
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]
    return {"title": " ".join(title.split()), "paragraphs": paragraphs, "path": path}
