"""When a mail is of no use any more, also if it is sent again.

Revision ID: 0026
Revises: 0025
Create Date: 2026-11-30 15:20:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    with op.batch_alter_table("email_messages") as batch_op:
        batch_op.add_column(sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Drops the column."""
    with op.batch_alter_table("email_messages") as batch_op:
        batch_op.drop_column("expires_at")
