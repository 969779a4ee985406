"""Deliveries that failed for reasons that may pass, and the order of the deliveries of a notification.

Revision ID: 0019
Revises: 0018
Create Date: 2026-11-30 12:20:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

IS_PASSING = sa.text("is_passing")


def upgrade() -> None:
    """Adds the column and the indexes."""
    with op.batch_alter_table("notification_deliveries") as batch_op:
        batch_op.add_column(sa.Column("is_passing", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("notification_deliveries") as batch_op:
        batch_op.alter_column("is_passing", server_default=None)
        batch_op.drop_index("ix_notification_deliveries_notification_id_state")
    table = "notification_deliveries"
    op.create_index("ix_notification_deliveries_notification_id_state_id", table, ["notification_id", "state", "id"])
    op.create_index("ix_notification_deliveries_notification_id_id", table, ["notification_id", "id"])
    op.create_index(
        "ix_notification_deliveries_passing",
        table,
        ["created_at"],
        sqlite_where=IS_PASSING,
        postgresql_where=IS_PASSING,
    )


def downgrade() -> None:
    """Removes them."""
    table = "notification_deliveries"
    op.drop_index("ix_notification_deliveries_passing", table)
    op.drop_index("ix_notification_deliveries_notification_id_id", table)
    op.drop_index("ix_notification_deliveries_notification_id_state_id", table)
    op.create_index("ix_notification_deliveries_notification_id_state", table, ["notification_id", "state"])
    with op.batch_alter_table(table) as batch_op:
        batch_op.drop_column("is_passing")
