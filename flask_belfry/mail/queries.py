"""Reading the ledger for people: lists, filters and counts. Each is answered by an index at a million rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute

from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text
from flask_belfry.db.pagination import Page, page_by_key
from flask_belfry.mail.errors import MailNotFoundError
from flask_belfry.mail.models import UNDER_WAY, EmailMessage, MailState
from flask_belfry.mail.recipients import check_address
from flask_belfry.outbox import LIVE, JobRecord

# States in which `last_error` says something; few rows are in them, so their text can be searched.
TROUBLED = (MailState.FAILED, MailState.DEFERRED, MailState.CANCELLED, MailState.UNCERTAIN, MailState.SKIPPED)
LAST_CHARACTER = "\U0010ffff"


def find_mails(
    *,
    state: str | None = None,
    kind: str | None = None,
    text: str | None = None,
    limit: int = 25,
    cursor: str | None = None,
) -> Page[EmailMessage]:
    """One page of the ledger, newest first.

    Args:
        state: a MailState's value; an unknown one finds nothing.
        kind: the exact kind.
        text: the beginning of an address, a kind or a key, an id, or a part of an error.
        limit, cursor: as for `page_by_key`.
    """
    query = sa.select(EmailMessage)
    if state:
        query = query.where(EmailMessage.state == state if state in list(MailState) else sa.false())
    if kind:
        query = query.where(EmailMessage.kind == kind)
    if text:
        query = query.where(_matches(text.strip()))
    return page_by_key(db.session(), query, (EmailMessage.id,), limit=limit, cursor=cursor)


def get_mail(mail_id: object) -> EmailMessage:
    """The mail of an id, or MailNotFoundError."""
    id = as_uuid_text(mail_id)
    mail = db.session.get(EmailMessage, id) if id else None
    if mail is None:
        raise MailNotFoundError
    return mail


def is_under_way(mail: EmailMessage) -> bool:
    """Whether a job is still going to change the mail's state."""
    job = db.session.get(JobRecord, mail.job_id) if mail.state in UNDER_WAY and mail.job_id else None
    return job is not None and job.state in LIVE


def mails_of_job(job_id: object) -> list[EmailMessage]:
    """The mails that a job sends, oldest first; none when the id is none."""
    id = as_uuid_text(job_id)
    if id is None:
        return []
    return list(db.session.scalars(sa.select(EmailMessage).where(EmailMessage.job_id == id).order_by(EmailMessage.id)))


def counts_by_state() -> Mapping[str, int]:
    """How many mails are in each state."""
    query = sa.select(EmailMessage.state, sa.func.count()).group_by(EmailMessage.state)
    return {state.value: count for state, count in db.session.execute(query)}


def _matches(text: str) -> sa.ColumnElement[bool]:
    found = [
        _begins_with(EmailMessage.recipient, check_address(text).address.lower()),
        _begins_with(EmailMessage.kind, text.lower()),
        _begins_with(EmailMessage.unique_key, text),
        EmailMessage.state.in_(TROUBLED) & EmailMessage.last_error.icontains(text, autoescape=True),
    ]
    if id := as_uuid_text(text):
        found.append(EmailMessage.id == id)
    return sa.or_(*found)


def _begins_with(column: InstrumentedAttribute[Any], text: str) -> sa.ColumnElement[bool]:
    # A range, not LIKE: SQLite uses no index for LIKE with an escape character.
    return (column >= text) & (column < text + LAST_CHARACTER)
