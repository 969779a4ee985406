"""The table of bulk operations: what a user did to all jobs that matched a search."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base
from flask_belfry.db.columns import StorableText, UtcDateTime, UuidText, new_id, text_enum
from flask_belfry.db.tenancy import OfSchoolOrSystem
from flask_belfry.outbox.models import FINGERPRINT_CHARACTERS


class BulkKind(StrEnum):
    """What is done to each job."""

    RETRY = "retry"
    CANCEL = "cancel"


class BulkState(StrEnum):
    """The state of a bulk operation."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"  # because the jobs failed again
    CANCELLED = "cancelled"


class BulkOperation(OfSchoolOrSystem, Base):
    """One bulk operation. A job does it by steps; the jobs that it changed are kept, so that it can be undone.

    With `canary` it first retries that many jobs and waits for them; the rest follows at `per_second`. It stops when
    the retried jobs fail again: see `flask_belfry.operations.bulk`.
    """

    __tablename__ = "bulk_operations"

    id: Mapped[str] = mapped_column(UuidText(), primary_key=True, default=new_id)
    kind: Mapped[BulkKind] = mapped_column(text_enum(BulkKind))
    state: Mapped[BulkState] = mapped_column(text_enum(BulkState), default=BulkState.RUNNING)
    # The search, as the user wrote it, and the group of failures, if it is about one.
    query: Mapped[str] = mapped_column(StorableText)
    group_id: Mapped[str | None] = mapped_column(UuidText())
    canary: Mapped[int | None]
    per_second: Mapped[float | None]
    # How many jobs matched when it was begun, and how many were looked at, changed, and failed again since then.
    total: Mapped[int] = mapped_column(default=0)
    done: Mapped[int] = mapped_column(default=0)
    changed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str | None] = mapped_column(StorableText)
    # The last job that was looked at, and when the next page is due.
    after_id: Mapped[str | None] = mapped_column(UuidText())
    next_page_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    job_id: Mapped[str | None] = mapped_column(UuidText())
    user_id: Mapped[int | None]
    undo_of_id: Mapped[str | None] = mapped_column(UuidText())
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    __table_args__ = (
        sa.Index("ix_bulk_operations_school_id_id", "school_id", "id"),
        sa.Index("ix_bulk_operations_group_id", "group_id"),
    )


class BulkOperationJob(Base):
    """A job that a bulk operation changed."""

    __tablename__ = "bulk_operation_jobs"

    operation_id: Mapped[str] = mapped_column(
        UuidText(), sa.ForeignKey("bulk_operations.id", ondelete="CASCADE"), primary_key=True
    )
    job_id: Mapped[str] = mapped_column(UuidText(), primary_key=True)
    # Of its last failed attempt before: it has failed again when another one has the same.
    fingerprint: Mapped[str | None] = mapped_column(sa.String(FINGERPRINT_CHARACTERS))
