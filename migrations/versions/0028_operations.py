"""Statistics, groups of failures, bulk operations, and what is known of workers; who of the staff may operate.

Revision ID: 0028
Revises: 0027
Create Date: 2026-11-30 15:40:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

# Of the histograms.
BUCKETS = 15


def upgrade() -> None:
    """Adds the tables, columns and indexes. Who is staff keeps the permission to operate."""
    op.create_table(
        "bulk_operations",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("retry", "cancel", name="bulkkind", native_enum=False, create_constraint=True, length=20),
            nullable=False,
        ),
        sa.Column(
            "state",
            sa.Enum(
                "running",
                "finished",
                "stopped",
                "cancelled",
                name="bulkstate",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("group_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("canary", sa.Integer(), nullable=True),
        sa.Column("per_second", sa.Double(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("changed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("after_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("next_page_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("undo_of_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("school_id", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bulk_operations")),
    )
    with op.batch_alter_table("bulk_operations") as batch_op:
        batch_op.create_index("ix_bulk_operations_group_id", ["group_id"])
        batch_op.create_index("ix_bulk_operations_school_id_id", ["school_id", "id"])

    op.create_table(
        "failure_groups",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("school_id", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(length=16), nullable=False),
        sa.Column("job_name", sa.String(length=120), nullable=False),
        sa.Column("error_type", sa.String(length=120), nullable=False),
        sa.Column("frame", sa.String(length=200), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "new",
                "seen",
                "ignored",
                "resolved",
                "regressed",
                name="failurestate",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_release", sa.String(length=60), nullable=True),
        sa.Column("last_release", sa.String(length=60), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_failure_groups")),
        sa.UniqueConstraint("school_id", "fingerprint", name=op.f("uq_failure_groups_school_id_fingerprint")),
    )
    with op.batch_alter_table("failure_groups") as batch_op:
        batch_op.create_index("ix_failure_groups_last_seen_at", ["last_seen_at"])
        batch_op.create_index("ix_failure_groups_school_id_last_seen_at", ["school_id", "last_seen_at"])

    op.create_table(
        "job_statistics",
        sa.Column(
            "resolution",
            sa.Enum("minute", "hour", name="resolution", native_enum=False, create_constraint=True, length=20),
            nullable=False,
        ),
        sa.Column("school_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("queue", sa.String(length=40), nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("cancelled", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        *(sa.Column(f"wait_{bucket}", sa.Integer(), nullable=False) for bucket in range(BUCKETS)),
        *(sa.Column(f"run_{bucket}", sa.Integer(), nullable=False) for bucket in range(BUCKETS)),
        sa.PrimaryKeyConstraint("resolution", "school_id", "at", "name", "queue", name=op.f("pk_job_statistics")),
    )
    with op.batch_alter_table("job_statistics") as batch_op:
        batch_op.create_index("ix_job_statistics_resolution_at", ["resolution", "at"])

    op.create_table(
        "mail_statistics",
        sa.Column(
            "resolution",
            sa.Enum("minute", "hour", name="resolution", native_enum=False, create_constraint=True, length=20),
            nullable=False,
        ),
        sa.Column("school_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(length=80), nullable=False),
        sa.Column("accepted", sa.Integer(), nullable=False),
        sa.Column("sent", sa.Integer(), nullable=False),
        sa.Column("deferred", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("bounced", sa.Integer(), nullable=False),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("resolution", "school_id", "at", "kind", name=op.f("pk_mail_statistics")),
    )
    with op.batch_alter_table("mail_statistics") as batch_op:
        batch_op.create_index("ix_mail_statistics_resolution_at", ["resolution", "at"])

    op.create_table(
        "job_totals",
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("queue", sa.String(length=40), nullable=False),
        *(
            sa.Column(measure, sa.BigInteger(), nullable=False)
            for measure in ("completed", "failed", "cancelled", "attempts")
        ),
        *(sa.Column(f"wait_{bucket}", sa.BigInteger(), nullable=False) for bucket in range(BUCKETS)),
        *(sa.Column(f"run_{bucket}", sa.BigInteger(), nullable=False) for bucket in range(BUCKETS)),
        sa.PrimaryKeyConstraint("name", "queue", name=op.f("pk_job_totals")),
    )
    op.create_table(
        "mail_totals",
        sa.Column("kind", sa.String(length=80), nullable=False),
        *(
            sa.Column(measure, sa.BigInteger(), nullable=False)
            for measure in ("accepted", "sent", "deferred", "failed", "bounced", "skipped")
        ),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_mail_totals")),
    )
    op.create_table(
        "queue_samples",
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("queue", sa.String(length=40), nullable=False),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.Column("running", sa.Integer(), nullable=False),
        sa.Column("scheduled", sa.Integer(), nullable=False),
        sa.Column("blocked", sa.Integer(), nullable=False),
        sa.Column("oldest_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("at", "queue", name=op.f("pk_queue_samples")),
    )
    op.create_table(
        "releases",
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_releases")),
    )
    op.create_table(
        "roll_ups",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("complete_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_roll_ups")),
    )
    op.create_table(
        "bulk_operation_jobs",
        sa.Column("operation_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("fingerprint", sa.String(length=16), nullable=True),
        sa.ForeignKeyConstraint(
            ["operation_id"],
            ["bulk_operations.id"],
            name=op.f("fk_bulk_operation_jobs_operation_id_bulk_operations"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("operation_id", "job_id", name=op.f("pk_bulk_operation_jobs")),
    )
    op.create_table(
        "failure_counts",
        sa.Column("group_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column(
            "resolution",
            sa.Enum("minute", "hour", name="resolution", native_enum=False, create_constraint=True, length=20),
            nullable=False,
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"],
            ["failure_groups.id"],
            name=op.f("fk_failure_counts_group_id_failure_groups"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("group_id", "resolution", "at", name=op.f("pk_failure_counts")),
    )
    with op.batch_alter_table("failure_counts") as batch_op:
        batch_op.create_index("ix_failure_counts_resolution_at", ["resolution", "at"])

    with op.batch_alter_table("email_messages") as batch_op:
        batch_op.add_column(sa.Column("reply", sa.Text(), nullable=True))
        # In the order in which a search lists them.
        batch_op.drop_index("ix_email_messages_recipient")
        batch_op.create_index("ix_email_messages_recipient", ["recipient", "id"])
        batch_op.drop_index("ix_email_messages_subject")
        batch_op.create_index("ix_email_messages_subject", ["subject_type", "subject_id", "id"])
        batch_op.create_index("ix_email_messages_school_id_state_id", ["school_id", "state", "id"])
        batch_op.create_index(
            "ix_email_messages_bounced_at",
            ["bounced_at"],
            sqlite_where=sa.text("bounced_at IS NOT NULL"),
            postgresql_where=sa.text("bounced_at IS NOT NULL"),
        )

    with op.batch_alter_table("job_attempts") as batch_op:
        batch_op.add_column(sa.Column("fingerprint", sa.String(length=16), nullable=True))
        batch_op.add_column(sa.Column("frame", sa.String(length=200), nullable=True))

    with op.batch_alter_table("job_records") as batch_op:
        batch_op.add_column(sa.Column("parent_id", sa.Uuid(as_uuid=False), nullable=True))
        batch_op.add_column(sa.Column("fingerprint", sa.String(length=16), nullable=True))
        batch_op.create_index(
            "ix_job_records_fingerprint",
            ["fingerprint", "id"],
            sqlite_where=sa.text("fingerprint IS NOT NULL AND state IN ('failed', 'retryable')"),
            postgresql_where=sa.text("fingerprint IS NOT NULL AND state IN ('failed', 'retryable')"),
        )
        batch_op.create_index("ix_job_records_school_id_state_id", ["school_id", "state", "id"])
        batch_op.create_index(
            "ix_job_records_parent",
            ["parent_id", "id"],
            sqlite_where=sa.text("parent_id IS NOT NULL"),
            postgresql_where=sa.text("parent_id IS NOT NULL"),
        )
        # In the order in which a search lists them.
        batch_op.drop_index("ix_job_records_subject")
        batch_op.create_index("ix_job_records_subject", ["subject_type", "subject_id", "id"])
        batch_op.drop_index("ix_job_records_batch")
        batch_op.create_index(
            "ix_job_records_batch",
            ["batch_id", "state", "id"],
            sqlite_where=sa.text("batch_id IS NOT NULL"),
            postgresql_where=sa.text("batch_id IS NOT NULL"),
        )
        batch_op.drop_index("ix_job_records_backlog")
        batch_op.create_index(
            "ix_job_records_backlog",
            ["queue", "school_id", "created_at", "scheduled_at"],
            sqlite_where=sa.text("state = 'pending'"),
            postgresql_where=sa.text("state = 'pending'"),
        )

    with op.batch_alter_table("users") as batch_op:
        batch_op.add_column(sa.Column("may_operate", sa.Boolean(), server_default=sa.false(), nullable=False))
    users = sa.table("users", sa.column("role"), sa.column("may_operate"))
    op.execute(users.update().where(users.c.role == "staff").values(may_operate=sa.true()))

    with op.batch_alter_table("worker_processes") as batch_op:
        batch_op.add_column(sa.Column("stop_requested_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("release", sa.String(length=60), nullable=True))
        batch_op.add_column(sa.Column("memory_bytes", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("jobs_done", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    """Drops them."""
    with op.batch_alter_table("worker_processes") as batch_op:
        batch_op.drop_column("jobs_done")
        batch_op.drop_column("memory_bytes")
        batch_op.drop_column("release")
        batch_op.drop_column("stop_requested_at")

    with op.batch_alter_table("users") as batch_op:
        batch_op.drop_column("may_operate")

    with op.batch_alter_table("job_records") as batch_op:
        batch_op.drop_index("ix_job_records_batch")
        batch_op.create_index(
            "ix_job_records_batch",
            ["batch_id", "state"],
            sqlite_where=sa.text("batch_id IS NOT NULL"),
            postgresql_where=sa.text("batch_id IS NOT NULL"),
        )
        batch_op.drop_index("ix_job_records_subject")
        batch_op.create_index("ix_job_records_subject", ["subject_type", "subject_id"])
        batch_op.drop_index("ix_job_records_parent")
        batch_op.drop_index("ix_job_records_backlog")
        batch_op.create_index(
            "ix_job_records_backlog",
            ["queue", "school_id", "created_at"],
            sqlite_where=sa.text("state = 'pending'"),
            postgresql_where=sa.text("state = 'pending'"),
        )
        batch_op.drop_index("ix_job_records_school_id_state_id")
        batch_op.drop_index("ix_job_records_fingerprint")
        batch_op.drop_column("fingerprint")
        batch_op.drop_column("parent_id")

    with op.batch_alter_table("job_attempts") as batch_op:
        batch_op.drop_column("frame")
        batch_op.drop_column("fingerprint")

    with op.batch_alter_table("email_messages") as batch_op:
        batch_op.drop_index("ix_email_messages_bounced_at")
        batch_op.drop_index("ix_email_messages_school_id_state_id")
        batch_op.drop_index("ix_email_messages_subject")
        batch_op.create_index("ix_email_messages_subject", ["subject_type", "subject_id"])
        batch_op.drop_index("ix_email_messages_recipient")
        batch_op.create_index("ix_email_messages_recipient", ["recipient"])
        batch_op.drop_column("reply")

    with op.batch_alter_table("failure_counts") as batch_op:
        batch_op.drop_index("ix_failure_counts_resolution_at")

    op.drop_table("failure_counts")
    op.drop_table("bulk_operation_jobs")
    op.drop_table("roll_ups")
    op.drop_table("releases")
    op.drop_table("queue_samples")
    with op.batch_alter_table("mail_statistics") as batch_op:
        batch_op.drop_index("ix_mail_statistics_resolution_at")

    op.drop_table("mail_totals")
    op.drop_table("job_totals")
    op.drop_table("mail_statistics")
    with op.batch_alter_table("job_statistics") as batch_op:
        batch_op.drop_index("ix_job_statistics_resolution_at")

    op.drop_table("job_statistics")
    with op.batch_alter_table("failure_groups") as batch_op:
        batch_op.drop_index("ix_failure_groups_school_id_last_seen_at")
        batch_op.drop_index("ix_failure_groups_last_seen_at")

    op.drop_table("failure_groups")
    with op.batch_alter_table("bulk_operations") as batch_op:
        batch_op.drop_index("ix_bulk_operations_school_id_id")
        batch_op.drop_index("ix_bulk_operations_group_id")

    op.drop_table("bulk_operations")
