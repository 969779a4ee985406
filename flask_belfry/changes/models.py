"""The table of recorded changes."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from flask_belfry.changes.actor import (
    IP_ADDRESS_CHARACTERS,
    REQUEST_ID_CHARACTERS,
    SUBJECT_ID_CHARACTERS,
    SUBJECT_TYPE_CHARACTERS,
)
from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base
from flask_belfry.db.columns import RowIdText, UtcDateTime, UuidText, new_id
from flask_belfry.db.tenancy import OfSchoolOrSystem


class StatusChange(OfSchoolOrSystem, Base):
    """One change of a tracked column, written in the transaction that made it: actor, time, old and new value.

    `number` is the order of one row's changes, counted under the row's lock: `at` and the id come from the clocks of
    several hosts.
    """

    __tablename__ = "status_changes"

    id: Mapped[str] = mapped_column(UuidText(), primary_key=True, default=new_id)
    subject_type: Mapped[str] = mapped_column(sa.String(SUBJECT_TYPE_CHARACTERS))
    subject_id: Mapped[str] = mapped_column(RowIdText(SUBJECT_ID_CHARACTERS))
    number: Mapped[int] = mapped_column(default=0, server_default="0")
    field: Mapped[str] = mapped_column(sa.String(40))
    old: Mapped[str | None] = mapped_column(sa.String(80))
    new: Mapped[str | None] = mapped_column(sa.String(80))
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    user_id: Mapped[int | None]
    request_id: Mapped[str | None] = mapped_column(sa.String(REQUEST_ID_CHARACTERS))
    ip_address: Mapped[str | None] = mapped_column("address", sa.String(IP_ADDRESS_CHARACTERS))
    # The job that made the change; None when a user did.
    job_id: Mapped[str | None] = mapped_column(UuidText())
    # Set for the changes of one bulk statement, which then updates exactly these rows.
    batch_id: Mapped[str | None] = mapped_column(UuidText())

    __table_args__ = (
        sa.Index("ix_status_changes_subject", "subject_type", "subject_id", "id"),
        # The audit log is read in these orders: all (by the primary key), of one school, of one user.
        sa.Index("ix_status_changes_school_id_id", "school_id", "id"),
        sa.Index(
            "ix_status_changes_user_id_id",
            "user_id",
            "id",
            sqlite_where=sa.text("user_id IS NOT NULL"),
            postgresql_where=sa.text("user_id IS NOT NULL"),
        ),
        sa.Index(
            "ix_status_changes_batch_id",
            "batch_id",
            sqlite_where=sa.text("batch_id IS NOT NULL"),
            postgresql_where=sa.text("batch_id IS NOT NULL"),
        ),
    )
