"""Queries of the ledger for pages and commands. Each uses an index and stays fast with a million rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute

from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text
from flask_belfry.db.pagination import Page, page_by_key
from flask_belfry.mail.errors import MailNotFoundError
from flask_belfry.mail.models import IN_PROGRESS, EmailMessage, MailState
from flask_belfry.mail.recipients import check_email
from flask_belfry.outbox import LIVE, JobAttempt, JobRecord

# The states with a `last_error`; they have few rows, so its text can be searched without an index.
STATES_WITH_ERROR = (
    MailState.FAILED,
    MailState.DEFERRED,
    MailState.CANCELLED,
    MailState.UNCERTAIN,
    MailState.SKIPPED,
    MailState.BOUNCED,
)
LAST_CHARACTER = "\U0010ffff"
MAX_ANSWERS = 50


def find_mails(
    *,
    state: str | None = None,
    kind: str | None = None,
    text: str | None = None,
    limit: int = 25,
    cursor: str | None = None,
) -> Page[EmailMessage]:
    """Return a page of mails, newest first.

    Args:
        state: the value of a MailState; an unknown one matches nothing.
        kind: the exact kind.
        text: the beginning of a recipient, kind or key, an id, or a part of an error.
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
    """Return the mail with this id. Raises MailNotFoundError."""
    id = as_uuid_text(mail_id)
    mail = db.session.get(EmailMessage, id) if id else None
    if mail is None:
        raise MailNotFoundError
    return mail


def is_in_progress(mail: EmailMessage) -> bool:
    """Return whether a job will still change the state of the mail."""
    job = db.session.get(JobRecord, mail.job_id) if mail.state in IN_PROGRESS and mail.job_id else None
    return job is not None and job.state in LIVE


@dataclass(frozen=True)
class Answer:
    """What came of an attempt to send a mail, or what a server reported later.

    Args:
        at: when.
        outcome: `sent`, `bounced`, or the outcome of the attempt.
        text: the server's reply, or the error.
        worker: that made the attempt, if it is known.
    """

    at: datetime
    outcome: str
    text: str | None
    worker: str | None = None


def answers_of(mail: EmailMessage) -> list[Answer]:
    """Return what the server answered to the attempts of a mail's job, newest first."""
    query = sa.select(JobAttempt).where(JobAttempt.job_id == mail.job_id).order_by(JobAttempt.id.desc())
    attempts = db.session.scalars(query.limit(MAX_ANSWERS)) if mail.job_id else ()
    found = [Answer(row.finished_at, row.outcome.value, row.error_message, row.worker) for row in attempts]
    # While it is sent again, the row still has the time of the mail before.
    if mail.sent_at and mail.state in (MailState.SENT, MailState.BOUNCED):
        found.append(Answer(mail.sent_at, MailState.SENT.value, mail.reply))
    if mail.bounced_at:
        found.append(Answer(mail.bounced_at, MailState.BOUNCED.value, mail.last_error))
    return sorted(found, key=lambda answer: answer.at, reverse=True)


def mails_of_job(job_id: object) -> list[EmailMessage]:
    """Return the mails that a job sends, oldest first; none for an invalid id."""
    id = as_uuid_text(job_id)
    if id is None:
        return []
    return list(db.session.scalars(sa.select(EmailMessage).where(EmailMessage.job_id == id).order_by(EmailMessage.id)))


def counts_by_state() -> Mapping[str, int]:
    """Return the number of mails in each state."""
    query = sa.select(EmailMessage.state, sa.func.count()).group_by(EmailMessage.state)
    return {state.value: count for state, count in db.session.execute(query)}


def _matches(text: str) -> sa.ColumnElement[bool]:
    found = [
        begins_with(EmailMessage.recipient, check_email(text).email.lower()),
        begins_with(EmailMessage.kind, text.lower()),
        begins_with(EmailMessage.unique_key, text),
        EmailMessage.state.in_(STATES_WITH_ERROR) & EmailMessage.last_error.icontains(text, autoescape=True),
    ]
    if id := as_uuid_text(text):
        found.append(EmailMessage.id == id)
    return sa.or_(*found)


def begins_with(column: InstrumentedAttribute[Any], text: str) -> sa.ColumnElement[bool]:
    """Return the condition that a column begins with `text`, which can use an index."""
    # A range instead of LIKE, because SQLite does not use an index for LIKE with an escape character.
    return (column >= text) & (column < text + LAST_CHARACTER)
