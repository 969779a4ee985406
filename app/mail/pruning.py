"""Deleting what the ledger remembers of mails long past."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.columns import utc_now
from app.mail.models import UNDER_WAY, EmailMessage, MailState

BATCH_MAILS = 5_000
# Still on their way, or waiting for a person.
KEPT = (*UNDER_WAY, MailState.UNCERTAIN)


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
