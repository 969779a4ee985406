"""Indexes of only those jobs, mails and deliveries that have what they are about: each change of a row writes to all.

The failed jobs of a group are counted by an index of their own.

Revision ID: 0029
Revises: 0028
Create Date: 2026-11-30 19:20:00

"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

# By name, with their table, columns and condition.
Indexes = Sequence[tuple[str, str, list[str], str | None]]
BEFORE: Indexes = (
    ("ix_job_records_state_scheduled_at", "job_records", ["state", "scheduled_at"], None),
    ("ix_job_records_finished_at", "job_records", ["finished_at"], None),
    ("ix_job_records_subject", "job_records", ["subject_type", "subject_id", "id"], None),
    ("ix_email_messages_created_at", "email_messages", ["created_at"], None),
    ("ix_email_messages_subject", "email_messages", ["subject_type", "subject_id", "id"], None),
    ("ix_email_messages_change_id", "email_messages", ["change_id"], None),
    ("ix_notification_deliveries_job_id", "notification_deliveries", ["job_id"], None),
    ("ix_notification_deliveries_email_id", "notification_deliveries", ["email_id"], None),
)
HAS_FAILED = "fingerprint IS NOT NULL AND state IN ('failed', 'retryable')"
AFTER: Indexes = (
    ("ix_job_records_failure_group", "job_records", ["school_id", "fingerprint", "state"], HAS_FAILED),
    ("ix_job_records_scheduled_at", "job_records", ["scheduled_at", "id"], "state IN ('retryable', 'scheduled')"),
    ("ix_job_records_finished_at", "job_records", ["finished_at"], "finished_at IS NOT NULL"),
    ("ix_job_records_subject", "job_records", ["subject_type", "subject_id", "id"], "subject_type IS NOT NULL"),
    ("ix_email_messages_subject", "email_messages", ["subject_type", "subject_id", "id"], "subject_type IS NOT NULL"),
    ("ix_email_messages_change_id", "email_messages", ["change_id"], "change_id IS NOT NULL"),
    ("ix_notification_deliveries_job_id", "notification_deliveries", ["job_id"], "job_id IS NOT NULL"),
    ("ix_notification_deliveries_email_id", "notification_deliveries", ["email_id"], "email_id IS NOT NULL"),
)


def _replace(old: Indexes, new: Indexes) -> None:
    for name, table, _, _ in old:
        op.drop_index(name, table)
    for name, table, columns, condition in new:
        where = None if condition is None else sa.text(condition)
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    """Replaces the indexes; mails are found by the time that their ids have."""
    _replace(BEFORE, AFTER)


def downgrade() -> None:
    """Restores them."""
    _replace(AFTER, BEFORE)
