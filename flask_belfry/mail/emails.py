"""The kinds of mail of this package: the message of `flask mail test`, and the notice, whose text the caller gives."""

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
    """Enqueue a mail that needs no kind of its own: a title, paragraphs and an optional link.

    Args:
        to: the email address.
        key: the unique key of the mail; see `MailRequest`.
        title: the subject of the mail, one line.
        text: plain-text paragraphs, separated by blank lines.
        path: the path that its link opens, such as `/reservations`; without a link when empty.
        subject: the row that it is about.

    Returns:
        the ledger id, or None if a mail with this key exists already.
    """
    return send_mail(NOTICE, to, key, context={"title": title, "text": text, "path": path}, subject=subject)


@mail_kind(
    TEST_MESSAGE,
    sample=lambda: {"server": "smtp.example.org"},
    reason="an operator ran `flask mail test` with this email address",
)
def describe_test(entries: Sequence[MailEntry]) -> dict[str, Context]:
    """Return the contexts as the caller gave them."""
    return {entry.id: entry.context for entry in entries}


@mail_kind(
    NOTICE,
    sample=lambda: _notice(
        "Maintenance on Saturday", "The service is unavailable from 8:00 to 9:00.\n\nNo data is lost.", "/"
    ),
    reason="notices are sent to this email address",
    choice="There is other news",
)
def describe_notice(entries: Sequence[MailEntry]) -> dict[str, Context]:
    """Return the contexts, with the text split into paragraphs."""
    return {entry.id: _notice(**entry.context) for entry in entries}


def _notice(title: str, text: str, path: str) -> Context:
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]
    return {"title": " ".join(title.split()), "paragraphs": paragraphs, "path": path}
