"""Why a scheduled notification was not sent.

Revision ID: 0022
Revises: 0021
Create Date: 2026-11-30 12:30:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    with op.batch_alter_table("scheduled_notifications") as batch_op:
        batch_op.add_column(sa.Column("reason", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drops it."""
    with op.batch_alter_table("scheduled_notifications") as batch_op:
        batch_op.drop_column("reason")
