"""The tables of statistics: counts and histograms by minute and by hour, samples of queues, groups of failures.

Pages and metrics read these, never the history itself. The scheduler writes them: see `roll_up`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base, table_of
from flask_belfry.db.columns import StorableText, UtcDateTime, UuidText, new_id, text_enum
from flask_belfry.db.tenancy import Tenant
from flask_belfry.outbox.models import FINGERPRINT_CHARACTERS, FRAME_CHARACTERS, JOB_NAME_CHARACTERS, RELEASE_CHARACTERS
from flask_belfry.statistics.histograms import BUCKETS

# The `school_id` of rows that belong to no school: a primary key contains no NULL.
SYSTEM_ID = 0
# The `school_id` of rows that add up those of all schools and of the system: read in the scope of all schools.
ALL_ID = -1


class Resolution(StrEnum):
    """How much time one row covers."""

    MINUTE = "minute"
    HOUR = "hour"


class Counted(Tenant):
    """A mixin: the rows of one school, of the system (SYSTEM_ID) or of all together (ALL_ID), in the time from `at`."""

    resolution: Mapped[Resolution] = mapped_column(text_enum(Resolution), primary_key=True, sort_order=-3)
    school_id: Mapped[int] = mapped_column(sa.Integer, primary_key=True, autoincrement=False, sort_order=-2)
    at: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True, sort_order=-1)


class JobStatistics(Counted, Base):
    """The jobs of one name that ended in this time, and how long they had waited and run.

    `attempts` counts the attempts that failed or timed out, also those that were retried. `wait_N` and `run_N` count
    the completed and failed jobs whose time falls into bucket N of `histograms.BOUNDS`: from the time at which a job
    was last due until its last start, and from there until its end.
    """

    __tablename__ = "job_statistics"

    name: Mapped[str] = mapped_column(sa.String(JOB_NAME_CHARACTERS), primary_key=True)
    queue: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    completed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    cancelled: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)

    __table_args__ = (
        # One column for each bucket: SQL adds up those of many rows.
        *(
            sa.Column(f"{times}_{bucket}", sa.Integer, nullable=False, default=0)
            for times in ("wait", "run")
            for bucket in range(BUCKETS)
        ),
        # For pruning.
        sa.Index("ix_job_statistics_resolution_at", "resolution", "at"),
    )


def measures(model: type[Base]) -> list[str]:
    """Return the names of the columns of statistics that count: those outside of the primary key."""
    return [column.name for column in table_of(model).columns if not column.primary_key]


def columns_of_totals(counted: type[Base]) -> tuple[sa.Column[int], ...]:
    """Return the columns for the sums of the measures of a model, for the `__table_args__` of its totals."""
    return tuple(sa.Column(name, sa.BigInteger, nullable=False, default=0) for name in measures(counted))


class JobTotals(Base):
    """The sums of JobStatistics over all complete minutes and schools.

    A counter for monitoring must never fall, but minutes and hours are pruned: see `totals`.
    """

    __tablename__ = "job_totals"

    name: Mapped[str] = mapped_column(sa.String(JOB_NAME_CHARACTERS), primary_key=True)
    queue: Mapped[str] = mapped_column(sa.String(40), primary_key=True)

    __table_args__ = columns_of_totals(JobStatistics)


class QueueSample(Base):
    """A queue at one moment."""

    __tablename__ = "queue_samples"

    at: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True)
    queue: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    waiting: Mapped[int]
    running: Mapped[int]
    scheduled: Mapped[int]
    blocked: Mapped[int]
    # Of the job that has waited for the longest time since it was due; None when none waits.
    oldest_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Release(Base):
    """A release of the application (RELEASE), and when it was first seen to run."""

    __tablename__ = "releases"

    name: Mapped[str] = mapped_column(sa.String(RELEASE_CHARACTERS), primary_key=True)
    first_seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class RollUp(Base):
    """Until when one kind of statistics is complete: earlier rows are not written again."""

    __tablename__ = "roll_ups"

    name: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    complete_until: Mapped[datetime] = mapped_column(UtcDateTime)


class FailureState(StrEnum):
    """What users know of a group of failures, and decided about it."""

    NEW = "new"
    SEEN = "seen"
    IGNORED = "ignored"
    RESOLVED = "resolved"
    REGRESSED = "regressed"  # it failed again after it was resolved


class FailureGroup(Tenant, Base):
    """The failed attempts with the same cause: of one job, with one type of error, raised in one frame of our code."""

    __tablename__ = "failure_groups"

    id: Mapped[str] = mapped_column(UuidText(), primary_key=True, default=new_id)
    school_id: Mapped[int] = mapped_column(sa.Integer)
    fingerprint: Mapped[str] = mapped_column(sa.String(FINGERPRINT_CHARACTERS))
    job_name: Mapped[str] = mapped_column(sa.String(JOB_NAME_CHARACTERS))
    error_type: Mapped[str] = mapped_column(sa.String(120))
    frame: Mapped[str | None] = mapped_column(sa.String(FRAME_CHARACTERS))
    # Of the latest attempt.
    message: Mapped[str | None] = mapped_column(StorableText)
    job_id: Mapped[str] = mapped_column(UuidText())

    state: Mapped[FailureState] = mapped_column(text_enum(FailureState), default=FailureState.NEW)
    failures: Mapped[int] = mapped_column(default=0)
    first_seen_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_seen_at: Mapped[datetime] = mapped_column(UtcDateTime)
    first_release: Mapped[str | None] = mapped_column(sa.String(RELEASE_CHARACTERS))
    last_release: Mapped[str | None] = mapped_column(sa.String(RELEASE_CHARACTERS))
    # When the state was last changed, and by which user; None before that.
    changed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    user_id: Mapped[int | None]

    __table_args__ = (
        sa.UniqueConstraint("school_id", "fingerprint"),
        sa.Index("ix_failure_groups_school_id_last_seen_at", "school_id", "last_seen_at"),
        sa.Index("ix_failure_groups_last_seen_at", "last_seen_at"),
    )


class FailureCount(Base):
    """How many attempts of a group failed in the minute or hour that begins at `at`."""

    __tablename__ = "failure_counts"

    group_id: Mapped[str] = mapped_column(
        UuidText(), sa.ForeignKey("failure_groups.id", ondelete="CASCADE"), primary_key=True
    )
    resolution: Mapped[Resolution] = mapped_column(text_enum(Resolution), primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True)
    failures: Mapped[int]

    __table_args__ = (sa.Index("ix_failure_counts_resolution_at", "resolution", "at"),)
