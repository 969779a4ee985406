"""The devices to which a push message is sent again, after another device of the person has got it.

Revision ID: 0025
Revises: 0024
Create Date: 2026-11-30 13:30:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    with op.batch_alter_table("notification_deliveries") as batch_op:
        batch_op.add_column(sa.Column("remaining_devices", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Drops the column."""
    with op.batch_alter_table("notification_deliveries") as batch_op:
        batch_op.drop_column("remaining_devices")
