"""The tables of the job system: records, their attempts, the schedule, the workers."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from flask_belfry.changes.actor import REQUEST_ID_CHARACTERS, SUBJECT_ID_CHARACTERS, SUBJECT_TYPE_CHARACTERS
from flask_belfry.core.clock import utc_now
from flask_belfry.core.settings.casts import MAX_NAME_CHARACTERS
from flask_belfry.db import Base
from flask_belfry.db.columns import RowIdText, StorableText, UtcDateTime, UuidText, database_now, new_id, text_enum
from flask_belfry.db.tenancy import OfSchoolOrSystem
from flask_belfry.outbox.states import LIVE, TIMED, WAITING, JobState

JOB_NAME_CHARACTERS = 120
UNIQUE_KEY_CHARACTERS = 200
BATCH_NAME_CHARACTERS = 120
LIMIT_KEY_CHARACTERS = 200
REASON_CHARACTERS = 200
CRON_CHARACTERS = 100
FINGERPRINT_CHARACTERS = 16
FRAME_CHARACTERS = 200
RELEASE_CHARACTERS = MAX_NAME_CHARACTERS
_LIVE_STATES = ", ".join(f"'{state.value}'" for state in sorted(LIVE))
_WAITING_STATES = ", ".join(f"'{state.value}'" for state in sorted(WAITING))
_TIMED_STATES = ", ".join(f"'{state.value}'" for state in sorted(TIMED))
_HOLDS_KEY = sa.text(
    f"unique_key IS NOT NULL AND state IN ({_LIVE_STATES}) AND (claims = 0 OR NOT unique_while_waiting)"
)
# With this `suspicion` a job runs in quarantine: alone in its process.
QUARANTINE = 2
_IS_QUARANTINED = sa.text(f"suspicion >= {QUARANTINE}")
HAS_FAILED = sa.text("fingerprint IS NOT NULL AND state IN ('failed', 'retryable')")
HAS_SUBJECT = sa.text("subject_type IS NOT NULL")
_IS_TIMED = sa.text(f"state IN ({_TIMED_STATES})")
_CAN_EXPIRE = sa.text(f"expires_at IS NOT NULL AND state IN ({_WAITING_STATES})")
# For statements with `is_timed`: SQLite would prefer the index of the states, and sort or compare all jobs of both.
BY_SCHEDULED_AT = "INDEXED BY ix_job_records_scheduled_at"


class BlockedBy(StrEnum):
    """What a blocked job waits for."""

    PREDECESSOR = "predecessor"  # the job or batch that it is enqueued after
    LIMIT = "limit"  # a free slot among the running jobs of its limit key
    PAUSE = "pause"  # the end of a pause of its queue, its name or its limit key


def _partial_index(name: str, condition: sa.TextClause, *columns: str) -> sa.Index:
    return sa.Index(f"ix_job_records_{name}", *columns, sqlite_where=condition, postgresql_where=condition)


class JobRecord(OfSchoolOrSystem, Base):
    """One job: written by the transaction that enqueued it, and kept as its history.

    `attempt` counts against `max_attempts`. `claims` counts every claim, also those that were released or interrupted,
    and is the fence: only the latest claim may finalize the job. `suspicion` is 1 after a crash that this job may have
    caused, and QUARANTINE when it must run alone.
    """

    __tablename__ = "job_records"

    id: Mapped[str] = mapped_column(UuidText(), primary_key=True, default=new_id)
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
    snoozes: Mapped[int] = mapped_column(default=0, server_default="0")
    suspicion: Mapped[int] = mapped_column(default=0, server_default="0")
    timeout_seconds: Mapped[int]
    cancel_requested: Mapped[bool] = mapped_column(default=False)

    batch_id: Mapped[str | None] = mapped_column(UuidText())
    # The job or batch whose completion enqueues this one, and the argument that gets the job's result.
    after_id: Mapped[str | None] = mapped_column(UuidText())
    result_as: Mapped[str | None] = mapped_column(sa.String(120))
    # Whether jobs are enqueued after this one: only then is its end followed by a query for them.
    has_successors: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    blocked_by: Mapped[BlockedBy | None] = mapped_column(text_enum(BlockedBy))
    limit_key: Mapped[str | None] = mapped_column(sa.String(LIMIT_KEY_CHARACTERS))
    # The start time that the rate of its limit gave it: due then, it is not counted a second time.
    rate_slot_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    progress_done: Mapped[int | None] = mapped_column(sa.BigInteger)
    progress_total: Mapped[int | None] = mapped_column(sa.BigInteger)
    progress_text: Mapped[str | None] = mapped_column(sa.String(REASON_CHARACTERS))
    # How far the steps of the job have been committed, by name: see `flask_belfry.execution.steps`.
    cursor: Mapped[Any | None] = mapped_column(sa.JSON(none_as_null=True))

    subject_type: Mapped[str | None] = mapped_column(sa.String(SUBJECT_TYPE_CHARACTERS))
    subject_id: Mapped[str | None] = mapped_column(RowIdText(SUBJECT_ID_CHARACTERS))
    change_id: Mapped[str | None] = mapped_column(UuidText())
    user_id: Mapped[int | None]
    request_id: Mapped[str | None] = mapped_column(sa.String(REQUEST_ID_CHARACTERS))
    # The job that enqueued this one.
    parent_id: Mapped[str | None] = mapped_column(UuidText())

    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    scheduled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    enqueued_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    worker: Mapped[str | None] = mapped_column(sa.String(80))
    result: Mapped[Any | None] = mapped_column(sa.JSON(none_as_null=True))
    error_type: Mapped[str | None] = mapped_column(sa.String(120))
    error_message: Mapped[str | None] = mapped_column(StorableText)
    # Of the last attempt that failed: see `JobAttempt`.
    fingerprint: Mapped[str | None] = mapped_column(sa.String(FINGERPRINT_CHARACTERS))

    __table_args__ = (
        # One job per key, until it is finalized, or claimed where `unique_while_waiting` is set.
        sa.Index(
            "uq_job_records_held_unique_key",
            "unique_key",
            unique=True,
            sqlite_where=_HOLDS_KEY,
            postgresql_where=_HOLDS_KEY,
        ),
        # Each change of its state writes to all indexes of a job, on PostgreSQL also to those of other columns. What
        # only some jobs have is indexed for these alone.
        sa.Index("ix_job_records_state_id", "state", "id"),
        sa.Index("ix_job_records_name_id", "name", "id"),
        sa.Index("ix_job_records_school_id_id", "school_id", "id"),
        sa.Index("ix_job_records_school_id_state_id", "school_id", "state", "id"),
        _partial_index("finished_at", sa.text("finished_at IS NOT NULL"), "finished_at"),
        _partial_index("scheduled_at", _IS_TIMED, "scheduled_at", "id"),
        _partial_index("subject", HAS_SUBJECT, "subject_type", "subject_id", "id"),
        _partial_index("batch", sa.text("batch_id IS NOT NULL"), "batch_id", "state", "id"),
        _partial_index("after", sa.text("after_id IS NOT NULL"), "after_id"),
        _partial_index("limit", sa.text("limit_key IS NOT NULL"), "limit_key", "state", "id"),
        _partial_index("expires_at", _CAN_EXPIRE, "expires_at"),
        # What the scheduler looks through for blocked jobs that may continue.
        _partial_index("blocked", sa.text("state = 'blocked'"), "blocked_by", "id"),
        # The backlog of each school, oldest first, for the fair share. Not by `id`: a planner could prefer the primary
        # key for it, and would read all finalized rows before the pending ones. `scheduled_at` is for the samples of
        # queues, which read since when jobs are due from the index.
        _partial_index("backlog", sa.text("state = 'pending'"), "queue", "school_id", "created_at", "scheduled_at"),
        _partial_index("parent", sa.text("parent_id IS NOT NULL"), "parent_id", "id"),
        # The failed jobs of a group of failures.
        _partial_index("fingerprint", HAS_FAILED, "fingerprint", "id"),
        _partial_index("failure_group", HAS_FAILED, "school_id", "fingerprint", "state"),
        # Few rows, so that the query for them is cheap.
        _partial_index("quarantine", _IS_QUARANTINED, "id"),
    )

    @classmethod
    def holds_key(cls, key: Any) -> sa.ColumnElement[bool]:
        """Return the condition for the job that holds a unique key, as the index has it."""
        return sa.and_(cls.unique_key == key, _HOLDS_KEY)

    @classmethod
    def has_failed(cls) -> sa.ColumnElement[bool]:
        """Return the condition for a failed or retryable job whose last attempt has a fingerprint, as the index has
        it."""
        return sa.and_(HAS_FAILED)

    @classmethod
    def is_timed(cls) -> sa.ColumnElement[bool]:
        """Return the condition for a job that waits for its `scheduled_at`, as the index has it."""
        return sa.and_(_IS_TIMED)

    @classmethod
    def can_expire(cls) -> sa.ColumnElement[bool]:
        """Return the condition for a waiting job that has a time at which it expires, as the index has it."""
        return sa.and_(_CAN_EXPIRE)


class AttemptOutcome(StrEnum):
    """The outcome of an attempt that did not complete its job."""

    FAILED = "failed"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    SNOOZED = "snoozed"  # used no attempt


class JobAttempt(Base):
    """One attempt that did not complete its job. The record itself describes the one that did.

    `fingerprint` is the same for attempts with the same cause: the job, the type of the error, and `frame`, the
    innermost frame of the application's code in which it was raised. Only failed and timed out attempts have one.
    """

    __tablename__ = "job_attempts"

    id: Mapped[str] = mapped_column(UuidText(), primary_key=True, default=new_id)
    job_id: Mapped[str] = mapped_column(UuidText(), sa.ForeignKey("job_records.id", ondelete="CASCADE"), index=True)
    number: Mapped[int]
    outcome: Mapped[AttemptOutcome] = mapped_column(text_enum(AttemptOutcome))
    worker: Mapped[str | None] = mapped_column(sa.String(80))
    host: Mapped[str | None] = mapped_column(sa.String(80))
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    error_type: Mapped[str | None] = mapped_column(sa.String(120))
    error_message: Mapped[str | None] = mapped_column(StorableText)
    traceback: Mapped[str | None] = mapped_column(StorableText)
    fingerprint: Mapped[str | None] = mapped_column(sa.String(FINGERPRINT_CHARACTERS))
    frame: Mapped[str | None] = mapped_column(sa.String(FRAME_CHARACTERS))


class JobLog(Base):
    """The log lines of one claim of a job, as far as they are kept: see `flask_belfry.execution.journal`."""

    __tablename__ = "job_logs"

    job_id: Mapped[str] = mapped_column(
        UuidText(), sa.ForeignKey("job_records.id", ondelete="CASCADE"), primary_key=True
    )
    claim: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[int]
    worker: Mapped[str | None] = mapped_column(sa.String(80))
    lines: Mapped[Any] = mapped_column(sa.JSON)
    # How many lines were dropped between the first and the last ones.
    dropped: Mapped[int] = mapped_column(default=0)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class JobBatch(OfSchoolOrSystem, Base):
    """Jobs that belong together. The commit that ends the last of them finishes the batch and enqueues `then_job`.

    `finished_at` is set while all of its jobs are finalized; retrying one of them clears it. The counts are those of
    its last finish.
    """

    __tablename__ = "job_batches"

    id: Mapped[str] = mapped_column(UuidText(), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(sa.String(BATCH_NAME_CHARACTERS))
    then_job: Mapped[str | None] = mapped_column(sa.String(JOB_NAME_CHARACTERS))
    then_args: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    then_job_id: Mapped[str | None] = mapped_column(UuidText())
    has_successors: Mapped[bool] = mapped_column(default=False, server_default=sa.false())

    subject_type: Mapped[str | None] = mapped_column(sa.String(SUBJECT_TYPE_CHARACTERS))
    subject_id: Mapped[str | None] = mapped_column(RowIdText(SUBJECT_ID_CHARACTERS))
    user_id: Mapped[int | None]
    request_id: Mapped[str | None] = mapped_column(sa.String(REQUEST_ID_CHARACTERS))

    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    cancelled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    completed: Mapped[int | None]
    failed: Mapped[int | None]
    cancelled: Mapped[int | None]

    __table_args__ = (
        sa.Index(
            "ix_job_batches_open",
            "id",
            sqlite_where=sa.text("finished_at IS NULL"),
            postgresql_where=sa.text("finished_at IS NULL"),
        ),
        sa.Index("ix_job_batches_school_id_id", "school_id", "id"),
        sa.Index("ix_job_batches_subject", "subject_type", "subject_id"),
        sa.Index("ix_job_batches_finished_at", "finished_at"),
    )


class JobLimit(Base):
    """One limit key. Its row is locked by what counts and frees the key's slots, and holds the next start of its rate.

    It is written by the first claim of a job with the key.
    """

    __tablename__ = "job_limits"

    key: Mapped[str] = mapped_column(sa.String(LIMIT_KEY_CHARACTERS), primary_key=True)
    next_start_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class PauseKind(StrEnum):
    """What a pause stops."""

    QUEUE = "queue"
    JOB = "job"
    LIMIT = "limit"


class JobPause(Base):
    """A pause of a queue, a job name or a limit key: no job of it is claimed until it is resumed, or until its end."""

    __tablename__ = "job_pauses"

    kind: Mapped[PauseKind] = mapped_column(text_enum(PauseKind), primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(LIMIT_KEY_CHARACTERS), primary_key=True)
    reason: Mapped[str | None] = mapped_column(sa.String(REASON_CHARACTERS))
    user_id: Mapped[int | None]
    paused_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    ends_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class UniquePeriod(Base):
    """A unique key that is taken for a period, also after its job has been finalized."""

    __tablename__ = "unique_periods"

    key: Mapped[str] = mapped_column(sa.String(UNIQUE_KEY_CHARACTERS), primary_key=True)
    job_id: Mapped[str] = mapped_column(UuidText())
    ends_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class Ticking:
    """A mixin: the columns of a schedule that say until when its ticks are settled, and whether a user paused it."""

    job_name: Mapped[str] = mapped_column(sa.String(JOB_NAME_CHARACTERS))
    zone: Mapped[str] = mapped_column(sa.String(60))
    first_tick_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_tick_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    paused_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    @property
    def settled_until(self) -> datetime:
        """The time up to which each tick has an outcome."""
        return self.last_tick_at or self.first_tick_at


class Schedule(Ticking, Base):
    """One periodic job as the running code declares it, and whether a user paused it."""

    __tablename__ = "schedules"

    name: Mapped[str] = mapped_column(sa.String(120), primary_key=True)
    timing: Mapped[str] = mapped_column(sa.String(120))


class CustomSchedule(Ticking, OfSchoolOrSystem, Base):
    """One schedule that a user made.

    It has a table of its own, because the code that runs before or after a deploy removes from `schedules` what it does
    not declare. Its name begins with a prefix that the code's schedules cannot have, so that both share the ticks.
    """

    __tablename__ = "custom_schedules"

    name: Mapped[str] = mapped_column(sa.String(SUBJECT_ID_CHARACTERS), primary_key=True)
    args: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    # Either is set.
    cron: Mapped[str | None] = mapped_column(sa.String(CRON_CHARACTERS))
    every_seconds: Mapped[int | None]
    user_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)

    __table_args__ = (sa.CheckConstraint("(cron IS NULL) <> (every_seconds IS NULL)", name="timing"),)


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
    job_id: Mapped[str | None] = mapped_column(UuidText())
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class Deployment(Base):
    """The one row that identifies this deployment and records the last pass of its scheduler."""

    __tablename__ = "deployments"

    id: Mapped[str] = mapped_column(UuidText(), primary_key=True)
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
    # A user asked it to stop: it does so when it sends its next heartbeat.
    stop_requested_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    release: Mapped[str | None] = mapped_column(sa.String(RELEASE_CHARACTERS))
    memory_bytes: Mapped[int | None] = mapped_column(sa.BigInteger)
    jobs_done: Mapped[int] = mapped_column(default=0, server_default="0")

    @classmethod
    def is_alive(cls, silence_seconds: float) -> sa.ColumnElement[bool]:
        """Return the condition for a process that has not stopped and sent a heartbeat within `silence_seconds`."""
        return sa.and_(cls.stopped_at.is_(None), cls.heartbeat_at >= database_now(-silence_seconds))
