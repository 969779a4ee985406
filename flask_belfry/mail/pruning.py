"""Deleting old mails from the ledger, and personal data from mails."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.db.columns import lowest_id
from flask_belfry.mail.models import IN_PROGRESS, EmailMessage, MailState
from flask_belfry.outbox import LIVE, JobRecord

BATCH_MAILS = 5_000
# In progress, or held for a decision of an operator.
KEPT = (*IN_PROGRESS, MailState.UNCERTAIN)
WAITING = (MailState.QUEUED, MailState.DEFERRED)
# The replies of servers may quote the email address.
ERASED: dict[str, Any] = {"recipients": [], "recipient": None, "context": {}, "reply": None}


def prune_mails(session: Session, older_than: timedelta) -> Iterator[int]:
    """Delete mails older than `older_than` that are neither in progress nor uncertain.

    It deletes a page and returns the number of its mails; the caller commits each page. Keys of deleted mails can be
    used again: keep mails longer than anything may enqueue them a second time.
    """
    # By their ids, since `created_at` has no index. Each page begins where the one before ended: those that are kept
    # are passed over once.
    is_old = EmailMessage.id < lowest_id(utc_now() - older_than), EmailMessage.state.not_in(KEPT)
    query = sa.select(EmailMessage.id).where(*is_old).order_by(EmailMessage.id).limit(BATCH_MAILS)
    page = query
    while ids := list(session.execute(page).scalars()):
        statement = sa.delete(EmailMessage).where(EmailMessage.id.in_(ids))
        session.execute(statement, execution_options={"synchronize_session": False})
        yield len(ids)
        page = query.where(EmailMessage.id > ids[-1])


def erase_mails(session: Session, condition: sa.ColumnElement[bool], reason: str) -> int:
    """Erase the recipients and contexts of the mails that match `condition`; waiting ones are skipped for `reason`. The
    caller commits.

    Returns:
        the number of mails.
    """
    values = ERASED | {
        "state": sa.case((EmailMessage.state.in_(WAITING), MailState.SKIPPED.value), else_=EmailMessage.state),
        "last_error": sa.case((EmailMessage.state == MailState.SENT, None), else_=reason),
    }
    return _update(session, condition, values)


def erase_finalized_mails(session: Session, kind: str) -> int:
    """Erase the recipients and contexts of the mails of `kind` whose job is finalized. The caller commits.

    Returns:
        the number of mails.
    """
    is_live = sa.exists().where(JobRecord.id == EmailMessage.job_id, JobRecord.state.in_(LIVE))
    has_recipient = EmailMessage.recipient.is_not(None)
    return _update(session, sa.and_(EmailMessage.kind == kind, has_recipient, ~is_live), ERASED | {"last_error": None})


def _update(session: Session, condition: sa.ColumnElement[bool], values: dict[str, Any]) -> int:
    statement = sa.update(EmailMessage).where(condition).values(values)
    result = session.execute(statement, execution_options={"synchronize_session": False})
    return result.rowcount  # pyright: ignore[reportAttributeAccessIssue]
