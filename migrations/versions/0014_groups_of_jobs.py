"""Batches, successors, limits, pauses, expiry, progress and log lines of jobs.

Revision ID: 0014
Revises: 0013
Create Date: 2026-11-30 04:40:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

STATES = ("pending", "scheduled", "queued", "running", "retryable", "completed", "failed", "cancelled")
BLOCKED_BY = ("predecessor", "limit", "pause")
PAUSE_KINDS = ("queue", "job", "limit")
OLD_LIVE = "'pending', 'queued', 'retryable', 'running', 'scheduled'"
INDEXES = {
    "batch": (["batch_id", "state"], "batch_id IS NOT NULL"),
    "after": (["after_id"], "after_id IS NOT NULL"),
    "limit": (["limit_key", "state", "id"], "limit_key IS NOT NULL"),
    "expires_at": (
        ["expires_at"],
        "expires_at IS NOT NULL AND state IN ('blocked', 'pending', 'queued', 'retryable', 'scheduled')",
    ),
    "blocked": (["blocked_by", "id"], "state = 'blocked'"),
}


def upgrade() -> None:
    """Adds the columns, indexes and tables, and the state `blocked`."""
    with op.batch_alter_table("job_records") as table:
        # Code of before, which runs on during a deploy, does not set those that have a default.
        table.add_column(sa.Column("batch_id", sa.Uuid(as_uuid=False), nullable=True))
        table.add_column(sa.Column("after_id", sa.Uuid(as_uuid=False), nullable=True))
        table.add_column(sa.Column("result_as", sa.String(120), nullable=True))
        table.add_column(sa.Column("has_successors", sa.Boolean(), server_default=sa.false(), nullable=False))
        table.add_column(sa.Column("blocked_by", sa.String(20), nullable=True))
        table.add_column(sa.Column("limit_key", sa.String(200), nullable=True))
        table.add_column(sa.Column("rate_slot_at", sa.DateTime(timezone=True), nullable=True))
        table.add_column(sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
        table.add_column(sa.Column("progress_done", sa.BigInteger(), nullable=True))
        table.add_column(sa.Column("progress_total", sa.BigInteger(), nullable=True))
        table.add_column(sa.Column("progress_text", sa.String(200), nullable=True))
        table.create_check_constraint(op.f("ck_job_records_blockedby"), one_of("blocked_by", BLOCKED_BY))
    set_values("job_records", "state", "jobstate", (*STATES, "blocked"))
    create_unique_index(f"'blocked', {OLD_LIVE}")
    for name, (columns, condition) in INDEXES.items():
        where = sa.text(condition)
        op.create_index(f"ix_job_records_{name}", "job_records", columns, sqlite_where=where, postgresql_where=where)
    create_tables()


def create_tables() -> None:
    op.create_table(
        "job_logs",
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("claim", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(80), nullable=True),
        sa.Column("lines", sa.JSON(), nullable=False),
        sa.Column("dropped", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["job_records.id"], name=op.f("fk_job_logs_job_id_job_records"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "claim", name=op.f("pk_job_logs")),
    )
    op.create_table(
        "job_batches",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("then_job", sa.String(120), nullable=True),
        sa.Column("then_args", sa.JSON(), nullable=False),
        sa.Column("then_job_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("has_successors", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("subject_type", sa.String(60), nullable=True),
        sa.Column("subject_id", sa.String(40), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("school_id", sa.Integer(), nullable=True),
        sa.Column("request_id", sa.String(64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed", sa.Integer(), nullable=True),
        sa.Column("failed", sa.Integer(), nullable=True),
        sa.Column("cancelled", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_batches")),
    )
    is_open = sa.text("finished_at IS NULL")
    op.create_index("ix_job_batches_open", "job_batches", ["id"], sqlite_where=is_open, postgresql_where=is_open)
    op.create_index("ix_job_batches_school_id_id", "job_batches", ["school_id", "id"])
    op.create_index("ix_job_batches_subject", "job_batches", ["subject_type", "subject_id"])
    op.create_index("ix_job_batches_finished_at", "job_batches", ["finished_at"])
    op.create_table(
        "job_limits",
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("next_start_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_job_limits")),
    )
    op.create_table(
        "job_pauses",
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("reason", sa.String(200), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(one_of("kind", PAUSE_KINDS), name=op.f("ck_job_pauses_pausekind")),
        sa.PrimaryKeyConstraint("kind", "name", name=op.f("pk_job_pauses")),
    )
    op.create_table(
        "unique_periods",
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_unique_periods")),
    )
    op.create_index(op.f("ix_unique_periods_ends_at"), "unique_periods", ["ends_at"])


def downgrade() -> None:
    """Cancels what is blocked, and drops everything that was added."""
    for table in ("unique_periods", "job_pauses", "job_limits", "job_batches", "job_logs"):
        op.drop_table(table)
    for name in INDEXES:
        op.drop_index(f"ix_job_records_{name}", table_name="job_records")
    op.execute("UPDATE job_records SET state = 'cancelled' WHERE state = 'blocked'")
    set_values("job_records", "state", "jobstate", STATES)
    create_unique_index(OLD_LIVE)
    with op.batch_alter_table("job_records") as table:
        table.drop_constraint(op.f("ck_job_records_blockedby"), type_="check")
        for column in (
            "progress_text",
            "progress_total",
            "progress_done",
            "expires_at",
            "rate_slot_at",
            "limit_key",
            "blocked_by",
            "has_successors",
            "result_as",
            "after_id",
            "batch_id",
        ):
            table.drop_column(column)


def set_values(table_name: str, column: str, enum: str, values: tuple[str, ...]) -> None:
    name = op.f(f"ck_{table_name}_{enum}")
    with op.batch_alter_table(table_name) as table:
        table.drop_constraint(name, type_="check")
        table.create_check_constraint(name, one_of(column, values))


def create_unique_index(live: str) -> None:
    name = "uq_job_records_held_unique_key"
    where = sa.text(f"unique_key IS NOT NULL AND state IN ({live}) AND (claims = 0 OR NOT unique_while_waiting)")
    op.drop_index(name, table_name="job_records")
    op.create_index(name, "job_records", ["unique_key"], unique=True, sqlite_where=where, postgresql_where=where)


def one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(map(repr, values))})"
