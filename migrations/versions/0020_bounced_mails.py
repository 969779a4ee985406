"""Mails that the server accepted and that were reported as not delivered.

Revision ID: 0020
Revises: 0019
Create Date: 2026-11-30 12:20:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

STATES = ("queued", "sending", "sent", "deferred", "failed", "cancelled", "uncertain", "suppressed", "skipped")


def upgrade() -> None:
    """Add the state `bounced` and the time of the report."""
    set_states(*STATES, "bounced")
    with op.batch_alter_table("email_messages") as table:
        table.add_column(sa.Column("bounced_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Set bounced mails to `failed`, which keeps the reason."""
    op.execute("UPDATE email_messages SET state = 'failed' WHERE state = 'bounced'")
    with op.batch_alter_table("email_messages") as table:
        table.drop_column("bounced_at")
    set_states(*STATES)


def set_states(*states: str) -> None:
    name = op.f("ck_email_messages_mailstate")
    with op.batch_alter_table("email_messages") as table:
        table.drop_constraint(name, type_="check")
        table.create_check_constraint(name, f"state IN ({', '.join(map(repr, states))})")
