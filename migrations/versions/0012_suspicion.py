"""Which jobs may have crashed their workers, and run in quarantine.

Revision ID: 0012
Revises: 0011
Create Date: 2026-11-29 22:05:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

IS_SUSPECT = sa.text("suspicion >= 2")


def upgrade() -> None:
    """Adds the column, and an index of the few rows in quarantine."""
    # Code of before, which runs on during a deploy, does not set it.
    op.add_column("job_records", sa.Column("suspicion", sa.Integer(), server_default="0", nullable=False))
    op.create_index(
        "ix_job_records_quarantine", "job_records", ["id"], sqlite_where=IS_SUSPECT, postgresql_where=IS_SUSPECT
    )


def downgrade() -> None:
    """Drops both."""
    op.drop_index("ix_job_records_quarantine", table_name="job_records")
    op.drop_column("job_records", "suspicion")
