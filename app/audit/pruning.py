"""Deletion of old audit entries."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.audit.models import AuditEntry
from flask_belfry.core.clock import utc_now
from flask_belfry.db.columns import new_id

BATCH_ENTRIES = 5_000


def prune_audit(session: Session, older_than: timedelta) -> int:
    """Delete old audit entries; changes of columns are kept as the history of their rows. The caller commits.

    Returns:
        number of deleted entries.
    """
    # By id: ids sort by time.
    old = sa.select(AuditEntry.id).where(AuditEntry.id < new_id(utc_now() - older_than)).limit(BATCH_ENTRIES)
    statement, deleted = sa.delete(AuditEntry).where(AuditEntry.id.in_(old)), 0
    while True:
        result: Any = session.execute(statement, execution_options={"synchronize_session": False})
        deleted += result.rowcount
        if result.rowcount < BATCH_ENTRIES:
            return deleted
