"""Indexes for the notifications of a sender, and for deliveries that failed for reasons that may pass.

Revision ID: 0024
Revises: 0023
Create Date: 2026-11-30 13:35:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

TABLES = ("notifications", "scheduled_notifications")


def _create_passing(is_passing: str) -> None:
    op.create_index(
        "ix_notification_deliveries_passing",
        "notification_deliveries",
        ["created_at"],
        sqlite_where=sa.text(is_passing),
        postgresql_where=sa.text("is_passing"),
    )


def upgrade() -> None:
    """Adds the indexes; SQLite needs another condition of the partial one."""
    for table in TABLES:
        op.create_index(f"ix_{table}_sender_id", table, ["sender_id"])
    op.drop_index("ix_notification_deliveries_passing", "notification_deliveries")
    _create_passing("is_passing = 1")


def downgrade() -> None:
    """Removes them."""
    op.drop_index("ix_notification_deliveries_passing", "notification_deliveries")
    _create_passing("is_passing")
    for table in TABLES:
        op.drop_index(f"ix_{table}_sender_id", table)
