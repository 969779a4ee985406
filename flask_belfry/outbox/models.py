"""The tables of the job system: records, their attempts, the schedule, the workers."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from flask_belfry.changes.actor import REQUEST_ID_CHARACTERS, SUBJECT_ID_CHARACTERS, SUBJECT_TYPE_CHARACTERS
from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base
from flask_belfry.db.columns import RowIdText, StorableText, UtcDateTime, database_now, new_id, text_enum
from flask_belfry.db.tenancy import OfSchoolOrSystem
from flask_belfry.outbox.states import LIVE, JobState

JOB_NAME_CHARACTERS = 120
UNIQUE_KEY_CHARACTERS = 200
_LIVE_STATES = ", ".join(f"'{state.value}'" for state in sorted(LIVE))
_HOLDS_KEY = sa.text(
    f"unique_key IS NOT NULL AND state IN ({_LIVE_STATES}) AND (claims = 0 OR NOT unique_while_waiting)"
)
# With this `suspicion` a job runs in quarantine: alone in its process.
QUARANTINE = 2
_IS_QUARANTINED = sa.text(f"suspicion >= {QUARANTINE}")


class JobRecord(OfSchoolOrSystem, Base):
    """One job: written by the transaction that enqueued it, and kept as its history.

    `attempt` counts against `max_attempts`. `claims` counts every claim, also those that were released or interrupted,
    and is the fence: only the latest claim may finalize the job. `suspicion` is 1 after a crash that this job may have
    caused, and QUARANTINE when it must run alone.
    """

    __tablename__ = "job_records"

    id: Mapped[str] = mapped_column(sa.Uuid(as_uuid=False), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(sa.String(JOB_NAME_CHARACTERS))
    queue: Mapped[str] = mapped_column(sa.String(40))
    state: Mapped[JobState] = mapped_column(text_enum(JobState))
    args: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    unique_key: Mapped[str | None] = mapped_column(sa.String(UNIQUE_KEY_CHARACTERS))
    # Whether the key is free from the first claim on, instead of from the job's end on.
    unique_while_waiting: Mapped[bool] = mapped_column(default=False, server_default=sa.false())

    attempt: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int] = mapped_column(default=1)
    claims: Mapped[int] = mapped_column(default=0)
    interruptions: Mapped[int] = mapped_column(default=0)
    suspicion: Mapped[int] = mapped_column(default=0, server_default="0")
    timeout_seconds: Mapped[int]
    cancel_requested: Mapped[bool] = mapped_column(default=False)

    subject_type: Mapped[str | None] = mapped_column(sa.String(SUBJECT_TYPE_CHARACTERS))
    subject_id: Mapped[str | None] = mapped_column(RowIdText(SUBJECT_ID_CHARACTERS))
    change_id: Mapped[str | None] = mapped_column(sa.Uuid(as_uuid=False))
    user_id: Mapped[int | None]
    request_id: Mapped[str | None] = mapped_column(sa.String(REQUEST_ID_CHARACTERS))

    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    scheduled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    enqueued_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    worker: Mapped[str | None] = mapped_column(sa.String(80))
    result: Mapped[Any | None] = mapped_column(sa.JSON(none_as_null=True))
    error_type: Mapped[str | None] = mapped_column(sa.String(120))
    error_message: Mapped[str | None] = mapped_column(StorableText)

    __table_args__ = (
        # One job per key, until it is finalized, or claimed where `unique_while_waiting` is set.
        sa.Index(
            "uq_job_records_held_unique_key",
            "unique_key",
            unique=True,
            sqlite_where=_HOLDS_KEY,
            postgresql_where=_HOLDS_KEY,
        ),
        sa.Index("ix_job_records_state_id", "state", "id"),
        sa.Index("ix_job_records_state_scheduled_at", "state", "scheduled_at"),
        sa.Index("ix_job_records_subject", "subject_type", "subject_id"),
        sa.Index("ix_job_records_name_id", "name", "id"),
        sa.Index("ix_job_records_school_id_id", "school_id", "id"),
        sa.Index("ix_job_records_finished_at", "finished_at"),
        # Few rows, so that the query for them is cheap.
        sa.Index("ix_job_records_quarantine", "id", sqlite_where=_IS_QUARANTINED, postgresql_where=_IS_QUARANTINED),
    )

    @classmethod
    def holds_key(cls, key: Any) -> sa.ColumnElement[bool]:
        """Return the condition for the job that holds a unique key, as the index has it."""
        return sa.and_(cls.unique_key == key, _HOLDS_KEY)


class AttemptOutcome(StrEnum):
    """The outcome of an attempt that did not complete its job."""

    FAILED = "failed"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"


class JobAttempt(Base):
    """One attempt that did not complete its job. The record itself describes the one that did."""

    __tablename__ = "job_attempts"

    id: Mapped[str] = mapped_column(sa.Uuid(as_uuid=False), primary_key=True, default=new_id)
    job_id: Mapped[str] = mapped_column(
        sa.Uuid(as_uuid=False), sa.ForeignKey("job_records.id", ondelete="CASCADE"), index=True
    )
    number: Mapped[int]
    outcome: Mapped[AttemptOutcome] = mapped_column(text_enum(AttemptOutcome))
    worker: Mapped[str | None] = mapped_column(sa.String(80))
    host: Mapped[str | None] = mapped_column(sa.String(80))
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    error_type: Mapped[str | None] = mapped_column(sa.String(120))
    error_message: Mapped[str | None] = mapped_column(StorableText)
    traceback: Mapped[str | None] = mapped_column(StorableText)


class Schedule(Base):
    """One periodic job as the running code declares it, and whether a user paused it."""

    __tablename__ = "schedules"

    name: Mapped[str] = mapped_column(sa.String(120), primary_key=True)
    job_name: Mapped[str] = mapped_column(sa.String(120))
    timing: Mapped[str] = mapped_column(sa.String(120))
    zone: Mapped[str] = mapped_column(sa.String(60))
    first_tick_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_tick_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    paused_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class TickOutcome(StrEnum):
    """The outcome of a tick."""

    ENQUEUED = "enqueued"
    MISSED = "missed"  # older than the catch-up window, or superseded by a later missed tick
    PAUSED = "paused"


class ScheduleTick(Base):
    """One tick of one schedule. Its primary key makes any number of schedulers enqueue it once."""

    __tablename__ = "schedule_ticks"

    schedule: Mapped[str] = mapped_column(sa.String(120), primary_key=True)
    tick_at: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True)
    outcome: Mapped[TickOutcome] = mapped_column(text_enum(TickOutcome))
    job_id: Mapped[str | None] = mapped_column(sa.Uuid(as_uuid=False))
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class Deployment(Base):
    """The one row that identifies this deployment and records the last pass of its scheduler."""

    __tablename__ = "deployments"

    id: Mapped[str] = mapped_column(sa.Uuid(as_uuid=False), primary_key=True)
    # By the database's clock: when a scheduler last finished a pass, and the error of Redis since then.
    scheduler_passed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    scheduler_error: Mapped[str | None] = mapped_column(sa.String(500))


class WorkerProcess(Base):
    """A process of the job system and its last heartbeat, by which the rescuer finds stuck jobs.

    Its times are by the database's clock: the hosts of the process and of the rescuer may have different clocks.
    """

    __tablename__ = "worker_processes"

    name: Mapped[str] = mapped_column(sa.String(80), primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(20))  # light, heavy or scheduler
    host: Mapped[str] = mapped_column(sa.String(80))
    pid: Mapped[int]
    queues: Mapped[str] = mapped_column(sa.String(200), default="")
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())
    heartbeat_at: Mapped[datetime] = mapped_column(UtcDateTime, default=database_now())
    stopped_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    @classmethod
    def is_alive(cls, silence_seconds: float) -> sa.ColumnElement[bool]:
        """Return the condition for a process that has not stopped and sent a heartbeat within `silence_seconds`."""
        return sa.and_(cls.stopped_at.is_(None), cls.heartbeat_at >= database_now(-silence_seconds))
