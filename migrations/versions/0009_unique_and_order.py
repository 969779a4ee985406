"""A unique key that is free from the first claim on; the order of a row's changes, whatever clocks say.

Revision ID: 0009
Revises: 0008
Create Date: 2026-11-29 22:20:00
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

LIVE = "unique_key IS NOT NULL AND state IN ('pending', 'queued', 'retryable', 'running', 'scheduled')"
HOLDS_KEY = f"{LIVE} AND (claims = 0 OR NOT unique_while_waiting)"


def upgrade():
    op.add_column(
        "job_records", sa.Column("unique_while_waiting", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    op.drop_index("uq_job_records_live_unique_key", table_name="job_records")
    _create_unique_index("uq_job_records_held_unique_key", HOLDS_KEY)

    op.add_column("status_changes", sa.Column("number", sa.Integer(), server_default="0", nullable=False))
    op.execute(
        "UPDATE status_changes SET number = numbered.number FROM ("
        "SELECT id, row_number() OVER (PARTITION BY subject_type, subject_id ORDER BY at, id) AS number"
        " FROM status_changes) AS numbered WHERE numbered.id = status_changes.id"
    )
    op.add_column("work_item_notices", sa.Column("told_number", sa.Integer(), server_default="0", nullable=False))
    op.execute(
        "UPDATE work_item_notices SET told_number = coalesce((SELECT max(number) FROM status_changes"
        " WHERE subject_type = 'work_item' AND subject_id = CAST(item_id AS VARCHAR) AND at <= told_until), 0)"
    )


def downgrade():
    op.drop_column("work_item_notices", "told_number")
    op.drop_column("status_changes", "number")
    op.drop_index("uq_job_records_held_unique_key", table_name="job_records")
    _create_unique_index("uq_job_records_live_unique_key", LIVE)
    op.drop_column("job_records", "unique_while_waiting")


def _create_unique_index(name, condition):
    where = sa.text(condition)
    op.create_index(name, "job_records", ["unique_key"], unique=True, sqlite_where=where, postgresql_where=where)
