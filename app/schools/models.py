"""The table of schools."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base
from flask_belfry.db.columns import UtcDateTime

# The school that the migration creates; an installation for one school has no other.
DEFAULT_SLUG = "school"
MAX_SCHOOL_NAME_CHARACTERS = 120
MAX_SLUG_CHARACTERS = 60
MAX_TIME_ZONE_CHARACTERS = 60


class School(Base):
    """A school. Its slug identifies it in commands."""

    __tablename__ = "schools"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(MAX_SCHOOL_NAME_CHARACTERS), active_history=True)
    slug: Mapped[str] = mapped_column(sa.String(MAX_SLUG_CHARACTERS), unique=True)
    # Of the times that its staff write and see; None is that of the installation.
    time_zone: Mapped[str | None] = mapped_column(sa.String(MAX_TIME_ZONE_CHARACTERS), active_history=True)
    # Since then its users cannot log in, and nothing is sent for it.
    disabled_at: Mapped[datetime | None] = mapped_column(UtcDateTime, active_history=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)

    # Without AUTOINCREMENT, SQLite could reuse an id, and a new school would inherit records of a deleted one.
    __table_args__ = {"sqlite_autoincrement": True}

    @property
    def is_disabled(self) -> bool:
        """Whether its users cannot log in."""
        return self.disabled_at is not None
