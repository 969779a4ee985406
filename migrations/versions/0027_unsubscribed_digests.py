"""Which types an unsubscribe link has taken out of the daily digest.

Revision ID: 0027
Revises: 0026
Create Date: 2026-11-30 15:35:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    with op.batch_alter_table("notification_preferences") as batch_op:
        batch_op.add_column(sa.Column("was_daily", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Drops the column."""
    with op.batch_alter_table("notification_preferences") as batch_op:
        batch_op.drop_column("was_daily")
