"""Mails rendered for display: a kind with its sample, or a row of the ledger as it would be sent now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask_belfry.db.columns import new_id
from flask_belfry.mail.errors import MailError
from flask_belfry.mail.message import OutgoingMessage
from flask_belfry.mail.models import EmailMessage, MailEntry, entry_of
from flask_belfry.mail.preparation import message_of
from flask_belfry.mail.registry import Skip, kind_of, kinds, unsubscribe_paths
from flask_belfry.mail.rendering import Rendered, absolute_url, render
from flask_belfry.mail.services import new_message_id

SAMPLE_RECIPIENT = "ada@example.org"
MASK = "\N{BULLET}" * 6
HIDDEN = "/hidden"


@dataclass(frozen=True)
class Preview:
    """A kind of mail and the subject line of its sample."""

    name: str
    subject: str


def preview(name: str, context: Mapping[str, Any] | None = None) -> Rendered:
    """Render a kind with a context, by default its sample. Raises UnknownMailError and MailTemplateError."""
    return render(name, kind_of(name).sample() if context is None else context, SAMPLE_RECIPIENT)


def preview_source(name: str) -> str:
    """Return the source of the sample of a kind, whose link to unsubscribe has no effect. Raises as `preview`."""
    id, kind = new_id(), kind_of(name)
    entry = MailEntry(id, name, [SAMPLE_RECIPIENT], message_id=new_message_id(id))
    may_unsubscribe = kind.unsubscribe is not None or kind.choice is not None
    return _source(message_of(entry, preview(name), absolute_url(HIDDEN) if may_unsubscribe else None))


def list_previews() -> list[Preview]:
    """Return all kinds; one that cannot be rendered has the error as its subject."""
    return [Preview(kind.name, _subject(kind.name)) for kind in kinds()]


def render_mail(mail: EmailMessage) -> Rendered | Skip | None:
    """Render a mail of the ledger with the current data of its subject, and the kind's secrets and the unsubscribe link
    masked.

    Returns:
        a Skip if it is not wanted any more; None if its subject no longer exists, or the mail's data was erased.

    Raises:
        UnknownMailError, MailTemplateError: it cannot be rendered.
    """
    if not mail.recipients and not mail.context:  # erased
        return None
    kind = kind_of(mail.kind)
    context = kind.contexts([entry_of(mail)]).get(mail.id)
    recipient = mail.recipients[0] if mail.recipients else ""
    if context is None or isinstance(context, Skip):
        return context
    masked = {**context, **dict.fromkeys(kind.secrets, MASK)}
    return render(mail.kind, masked, recipient, _unsubscribe_url(mail))


def source_of(mail: EmailMessage, rendered: Rendered) -> str:
    """Return the source of a mail of the ledger that `render_mail` has rendered."""
    sent_at = mail.sent_at or mail.sending_at or mail.created_at
    return _source(message_of(entry_of(mail), rendered, _unsubscribe_url(mail), sent_at=sent_at))


def _source(message: OutgoingMessage) -> str:
    return message.as_bytes().decode("ascii")


def _unsubscribe_url(mail: EmailMessage) -> str | None:
    """Return a URL in place of the unsubscribe page's, with which readers could unsubscribe the recipient; None for a
    mail without one."""
    has_page = mail.recipients and unsubscribe_paths([entry_of(mail)])
    return absolute_url(HIDDEN) if has_page else None


def _subject(name: str) -> str:
    try:
        return preview(name).subject
    except MailError as error:
        return error.message
