"""Schedules that users make.

Revision ID: 0017
Revises: 0016
Create Date: 2026-11-30 08:40:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds their table."""
    op.create_table(
        "custom_schedules",
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("job_name", sa.String(120), nullable=False),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("cron", sa.String(100), nullable=True),
        sa.Column("every_seconds", sa.Integer(), nullable=True),
        sa.Column("zone", sa.String(60), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("school_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_tick_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_tick_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(cron IS NULL) <> (every_seconds IS NULL)", name=op.f("ck_custom_schedules_timing")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_custom_schedules")),
    )


def downgrade() -> None:
    """Drops it with the schedules."""
    op.drop_table("custom_schedules")
