"""An index of the pending jobs of each queue and school.

Revision ID: 0015
Revises: 0014
Create Date: 2026-11-30 08:30:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

INDEX = "ix_job_records_backlog"
IS_PENDING = sa.text("state = 'pending'")


def upgrade() -> None:
    """Adds the index."""
    columns = ["queue", "school_id", "created_at"]
    op.create_index(INDEX, "job_records", columns, sqlite_where=IS_PENDING, postgresql_where=IS_PENDING)


def downgrade() -> None:
    """Drops the index."""
    op.drop_index(INDEX, table_name="job_records")
