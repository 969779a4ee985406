"""The table of audit entries. The log also shows recorded changes of columns: see queries.py."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base
from flask_belfry.db.columns import RowIdText, UtcDateTime, UuidText, new_id
from flask_belfry.db.tenancy import OfSchoolOrSystem


class AuditEntry(OfSchoolOrSystem, Base):
    """An action other than a recorded change of a column: a login, a retry, a deletion."""

    __tablename__ = "audit_entries"

    id: Mapped[str] = mapped_column(UuidText(), primary_key=True, default=new_id)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    # <subject>.<verb>, e.g. job.retry.
    action: Mapped[str] = mapped_column(sa.String(60))
    subject_type: Mapped[str | None] = mapped_column(sa.String(60))
    subject_id: Mapped[str | None] = mapped_column(RowIdText(40))
    user_id: Mapped[int | None]
    job_id: Mapped[str | None] = mapped_column(UuidText())
    request_id: Mapped[str | None] = mapped_column(sa.String(64))
    ip_address: Mapped[str | None] = mapped_column("address", sa.String(64))
    user_agent: Mapped[str | None] = mapped_column(sa.String(160))
    # Small; no secrets, no hashes, no text that users wrote.
    details: Mapped[dict[str, Any]] = mapped_column(sa.JSON, default=dict)

    __table_args__ = (
        sa.Index("ix_audit_entries_school_id_id", "school_id", "id"),
        sa.Index("ix_audit_entries_action_id", "action", "id"),
        sa.Index("ix_audit_entries_user_id_id", "user_id", "id"),
        sa.Index("ix_audit_entries_subject", "subject_type", "subject_id", "id"),
    )
