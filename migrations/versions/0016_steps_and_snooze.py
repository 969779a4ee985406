"""Snoozes and cursors of jobs.

Revision ID: 0016
Revises: 0015
Create Date: 2026-11-30 08:40:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

OUTCOMES = ("failed", "timed_out", "interrupted", "cancelled")


def upgrade() -> None:
    """Adds the columns and the outcome `snoozed`."""
    with op.batch_alter_table("job_records") as table:
        # Code of before, which runs on during a deploy, does not set it.
        table.add_column(sa.Column("snoozes", sa.Integer(), server_default="0", nullable=False))
        table.add_column(sa.Column("cursor", sa.JSON(), nullable=True))
    set_outcomes(*OUTCOMES, "snoozed")


def downgrade() -> None:
    """Drops the columns; snoozed attempts become interrupted ones."""
    op.execute("UPDATE job_attempts SET outcome = 'interrupted' WHERE outcome = 'snoozed'")
    set_outcomes(*OUTCOMES)
    with op.batch_alter_table("job_records") as table:
        table.drop_column("cursor")
        table.drop_column("snoozes")


def set_outcomes(*values: str) -> None:
    name = op.f("ck_job_attempts_attemptoutcome")
    with op.batch_alter_table("job_attempts") as table:
        table.drop_constraint(name, type_="check")
        table.create_check_constraint(name, f"outcome IN ({', '.join(map(repr, values))})")
