"""Mails rendered for looking at: a kind with its sample, or a row of the ledger as it would go out now."""

from __future__ import annotations

from dataclasses import dataclass

from flask_belfry.mail.errors import MailError
from flask_belfry.mail.models import EmailMessage, entry_of
from flask_belfry.mail.registry import kind_of, kinds
from flask_belfry.mail.rendering import Rendered, render

SAMPLE_RECIPIENT = "ada@example.org"
HIDDEN = "\N{BULLET}" * 6


@dataclass(frozen=True)
class Preview:
    """A kind of mail and the subject that its sample gives."""

    name: str
    subject: str


def preview(name: str) -> Rendered:
    """A kind rendered with its sample. Raises UnknownMailError and MailTemplateError."""
    return render(name, kind_of(name).sample(), SAMPLE_RECIPIENT)


def list_previews() -> list[Preview]:
    """All kinds; one that cannot be rendered shows why in place of its subject."""
    return [Preview(kind.name, _subject(kind.name)) for kind in kinds()]


def render_mail(mail: EmailMessage) -> Rendered | None:
    """A ledger row rendered with what its subject is now, or None when that is gone. What only the recipient may read
    is hidden.

    Raises:
        UnknownMailError, MailTemplateError: it cannot be rendered.
    """
    if not mail.recipients and not mail.context:  # erased: it would lack what it said
        return None
    kind = kind_of(mail.kind)
    context = kind.contexts([entry_of(mail)]).get(mail.id)
    recipient = mail.recipients[0] if mail.recipients else ""
    return None if context is None else render(mail.kind, {**context, **dict.fromkeys(kind.secrets, HIDDEN)}, recipient)


def _subject(name: str) -> str:
    try:
        return preview(name).subject
    except MailError as error:
        return error.message
