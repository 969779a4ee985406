"""Deletes old mails from the ledger, and the addresses of recipients from mails."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.mail.models import UNDER_WAY, EmailMessage, MailState
from flask_belfry.outbox import LIVE, JobRecord

BATCH_MAILS = 5_000
# Still on their way, or waiting for a person.
KEPT = (*UNDER_WAY, MailState.UNCERTAIN)
WAITING = (MailState.QUEUED, MailState.DEFERRED)
ERASED: dict[str, Any] = {"recipients": [], "recipient": None, "context": {}}


def prune_mails(session: Session, older_than: timedelta) -> int:
    """Deletes mails that were asked for longer than `older_than` ago and are settled. The caller commits.

    A deleted mail's key is free again: keep mails longer than anything could ask for them anew.

    Returns:
        how many mails were deleted.
    """
    is_old = sa.and_(EmailMessage.created_at < utc_now() - older_than, EmailMessage.state.not_in(KEPT))
    deleted = 0
    while ids := list(session.execute(sa.select(EmailMessage.id).where(is_old).limit(BATCH_MAILS)).scalars()):
        statement = sa.delete(EmailMessage).where(EmailMessage.id.in_(ids))
        session.execute(statement, execution_options={"synchronize_session": False})
        deleted += len(ids)
    return deleted


def erase_mails(session: Session, condition: sa.ColumnElement[bool], reason: str) -> int:
    """Delete the recipients' addresses from the mails that meet `condition`; those that wait are skipped for `reason`.
    The caller commits.

    Returns:
        the number of mails.
    """
    # Servers repeat the address in what they answer, so that goes too.
    values = ERASED | {
        "state": sa.case((EmailMessage.state.in_(WAITING), MailState.SKIPPED.value), else_=EmailMessage.state),
        "last_error": sa.case((EmailMessage.state == MailState.SENT, None), else_=reason),
    }
    return _update(session, condition, values)


def forget_readers(session: Session, kind: str) -> int:
    """Takes the address out of mails whose readers are gone already, once no job is going to send them any more. The
    caller commits.

    Returns:
        how many there were.
    """
    is_live = sa.exists().where(JobRecord.id == EmailMessage.job_id, JobRecord.state.in_(LIVE))
    has_reader = EmailMessage.recipient.is_not(None)
    return _update(session, sa.and_(EmailMessage.kind == kind, has_reader, ~is_live), ERASED | {"last_error": None})


def _update(session: Session, condition: sa.ColumnElement[bool], values: dict[str, Any]) -> int:
    statement = sa.update(EmailMessage).where(condition).values(values)
    result = session.execute(statement, execution_options={"synchronize_session": False})
    return result.rowcount  # pyright: ignore[reportAttributeAccessIssue]
