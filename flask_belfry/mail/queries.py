"""Queries of the ledger for pages and commands. Each uses an index and stays fast with a million rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from flask_belfry import search
from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text
from flask_belfry.db.pagination import DEFAULT_LIMIT
from flask_belfry.mail.errors import MailNotFoundError
from flask_belfry.mail.models import IN_PROGRESS, EmailMessage, MailState
from flask_belfry.outbox import LIVE, JobAttempt, JobRecord
from flask_belfry.search import Query, SearchPage

MAX_ANSWERS = 50
COUNT_LIMIT = 10_000


def find_mails(query: Query, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> SearchPage[EmailMessage]:
    """Return a page of the mails that match a search, newest first."""
    return search.find(db.session(), query, limit=limit, cursor=cursor)


def count(query: Query) -> tuple[int, bool]:
    """Return how many mails match a search, and whether there may be more: counted up to COUNT_LIMIT."""
    return search.count(db.session(), query, COUNT_LIMIT)


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
    """Return the number of mails in each state, counted up to COUNT_LIMIT."""
    columns = [_capped_count(state).label(state.value) for state in MailState]
    return db.session.execute(sa.select(*columns)).one()._asdict()


def _capped_count(state: MailState) -> sa.ScalarSelect[Any]:
    # In the order of an index, so that no plan reads the table.
    rows = sa.select(EmailMessage.id).where(EmailMessage.state == state).order_by(EmailMessage.id.desc())
    return sa.select(sa.func.count()).select_from(rows.limit(COUNT_LIMIT).subquery()).scalar_subquery()
