"""The rows of the mail ledger, and the contents of its mails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from flask_belfry.db import db
from flask_belfry.mail import EmailMessage
from flask_belfry.mail.models import entry_of
from flask_belfry.mail.registry import kind_of


def mails(kind: str | None = None) -> list[EmailMessage]:
    """The mails of a kind, or all, in the order in which they were asked for."""
    query = sa.select(EmailMessage).order_by(EmailMessage.id)
    return list(db.session.scalars(query if kind is None else query.where(EmailMessage.kind == kind)))


def contexts(kind: str, sent: Sequence[EmailMessage]) -> Mapping[str, Mapping[str, Any] | None]:
    """What the templates of a kind are given for each of these mails, by the mail's id."""
    return kind_of(kind).contexts([entry_of(mail) for mail in sent])


def addressees(kind: str | None = None) -> list[str]:
    """Who gets the mails of a kind, sorted."""
    return sorted(address for mail in mails(kind) for address in mail.recipients)
