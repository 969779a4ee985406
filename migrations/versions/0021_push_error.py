"""Why FCM refuses the content of a notification.

Revision ID: 0021
Revises: 0020
Create Date: 2026-11-30 12:25:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    with op.batch_alter_table("notifications") as batch_op:
        batch_op.add_column(sa.Column("push_error", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drops the column."""
    with op.batch_alter_table("notifications") as batch_op:
        batch_op.drop_column("push_error")
