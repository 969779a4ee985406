"""Mails are cancelled with their jobs, and none is under way without one.

Revision ID: 0010
Revises: 0009
Create Date: 2026-11-29 22:05:00

"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

STATES = ("queued", "sending", "sent", "deferred", "failed", "uncertain", "suppressed", "skipped")

# Their jobs ended outside of an attempt, as those of dead workers did, and left them as they were.
END_STRANDED = """
    UPDATE email_messages
    SET state = CASE state WHEN 'sending' THEN 'uncertain' ELSE 'failed' END,
        uncertain_count = uncertain_count + CASE state WHEN 'sending' THEN 1 ELSE 0 END,
        last_error = coalesce(last_error, 'its job has ended without it')
    WHERE state IN ('queued', 'sending', 'deferred')
      AND NOT EXISTS (
        SELECT 1 FROM job_records
        WHERE job_records.id = email_messages.job_id
          AND job_records.state NOT IN ('completed', 'failed', 'cancelled')
      )
"""


def upgrade() -> None:
    """Lets a mail be cancelled, and ends those that no job is going to send."""
    set_states(*STATES, "cancelled")
    op.execute(END_STRANDED)
    op.execute("UPDATE email_messages SET state = 'cancelled' WHERE last_error = 'its job was cancelled'")


def downgrade() -> None:
    """Calls cancelled mails failed again."""
    op.execute(
        "UPDATE email_messages SET state = 'failed', last_error = coalesce(last_error, 'its job was cancelled') "
        "WHERE state = 'cancelled'"
    )
    set_states(*STATES)


def set_states(*states: str) -> None:
    name = op.f("ck_email_messages_mailstate")
    with op.batch_alter_table("email_messages") as table:
        table.drop_constraint(name, type_="check")
        table.create_check_constraint(name, f"state IN ({', '.join(map(repr, states))})")
