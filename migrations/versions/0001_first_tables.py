"""The job system, mail, accounts and reservations.

Revision ID: 0001
Revises:
Create Date: 2026-11-21 22:18:43.965622

"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Two open reservations of one resource never overlap. PostgreSQL: int8range stands in for "=", which GiST does not
# know of integers without an extension. SQLite has no such constraint; its triggers run under the one write lock.
_SQLITE_TEST = (
    "WHEN NEW.resource_id IS NOT NULL AND NEW.status IN ('pending', 'confirmed') "
    "BEGIN SELECT RAISE(ABORT, 'reservation_overlaps') WHERE EXISTS (SELECT 1 FROM reservations "
    "WHERE resource_id = NEW.resource_id AND status IN ('pending', 'confirmed') "
    "AND start_time < NEW.end_time AND end_time > NEW.start_time AND id IS NOT {own_id}); END"
)
NO_OVERLAP = {
    "postgresql": (
        "ALTER TABLE reservations ADD CONSTRAINT reservation_overlaps EXCLUDE USING gist ("
        "int8range(resource_id, resource_id, '[]') WITH &&, tstzrange(start_time, end_time) WITH &&"
        ") WHERE (resource_id IS NOT NULL AND status IN ('pending', 'confirmed'))",
    ),
    "sqlite": (
        "CREATE TRIGGER reservations_no_overlap_insert BEFORE INSERT ON reservations "
        + _SQLITE_TEST.format(own_id="NULL"),
        "CREATE TRIGGER reservations_no_overlap_update "
        "BEFORE UPDATE OF resource_id, start_time, end_time, status ON reservations "
        + _SQLITE_TEST.format(own_id="OLD.id"),
    ),
}


def upgrade():
    op.create_table(
        "email_messages",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column(
            "unique_key",
            sa.String(length=250).with_variant(sa.String(length=250, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column(
            "kind", sa.String(length=80).with_variant(sa.String(length=80, collation="C"), "postgresql"), nullable=False
        ),
        sa.Column("recipients", sa.JSON(), nullable=False),
        sa.Column(
            "recipient",
            sa.String(length=320).with_variant(sa.String(length=320, collation="C"), "postgresql"),
            nullable=True,
        ),
        sa.Column("context", sa.JSON(), nullable=False),
        sa.Column("subject_type", sa.String(length=60), nullable=True),
        sa.Column("subject_id", sa.String(length=40), nullable=True),
        sa.Column("change_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "sending",
                "sent",
                "deferred",
                "failed",
                "uncertain",
                "suppressed",
                "skipped",
                name="mailstate",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("uncertain_count", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("message_id", sa.String(length=300), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sending_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_email_messages")),
        sa.UniqueConstraint("unique_key", name=op.f("uq_email_messages_unique_key")),
    )
    with op.batch_alter_table("email_messages", schema=None) as batch_op:
        batch_op.create_index("ix_email_messages_change_id", ["change_id"], unique=False)
        batch_op.create_index("ix_email_messages_created_at", ["created_at"], unique=False)
        batch_op.create_index("ix_email_messages_job_id", ["job_id"], unique=False)
        batch_op.create_index("ix_email_messages_kind_id", ["kind", "id"], unique=False)
        batch_op.create_index("ix_email_messages_recipient", ["recipient"], unique=False)
        batch_op.create_index("ix_email_messages_state_id", ["state", "id"], unique=False)
        batch_op.create_index("ix_email_messages_subject", ["subject_type", "subject_id"], unique=False)

    op.create_table(
        "job_records",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("queue", sa.String(length=40), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "pending",
                "scheduled",
                "queued",
                "running",
                "retryable",
                "completed",
                "failed",
                "cancelled",
                name="jobstate",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("unique_key", sa.String(length=200), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("claims", sa.Integer(), nullable=False),
        sa.Column("interruptions", sa.Integer(), nullable=False),
        sa.Column("timeout_seconds", sa.Integer(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("subject_type", sa.String(length=60), nullable=True),
        sa.Column("subject_id", sa.String(length=40), nullable=True),
        sa.Column("change_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("scheduled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("enqueued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.String(length=80), nullable=True),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error_type", sa.String(length=120), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_records")),
    )
    with op.batch_alter_table("job_records", schema=None) as batch_op:
        batch_op.create_index("ix_job_records_finished_at", ["finished_at"], unique=False)
        batch_op.create_index("ix_job_records_name_id", ["name", "id"], unique=False)
        batch_op.create_index("ix_job_records_state_id", ["state", "id"], unique=False)
        batch_op.create_index("ix_job_records_state_scheduled_at", ["state", "scheduled_at"], unique=False)
        batch_op.create_index("ix_job_records_subject", ["subject_type", "subject_id"], unique=False)
        batch_op.create_index(
            "uq_job_records_live_unique_key",
            ["unique_key"],
            unique=True,
            sqlite_where=sa.text(
                "unique_key IS NOT NULL AND state IN ('pending', 'queued', 'retryable', 'running', 'scheduled')"
            ),
            postgresql_where=sa.text(
                "unique_key IS NOT NULL AND state IN ('pending', 'queued', 'retryable', 'running', 'scheduled')"
            ),
        )

    op.create_table(
        "resources",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("capacity", sa.Integer(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.CheckConstraint("capacity >= 1", name=op.f("ck_resources_capacity")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_resources")),
        sa.UniqueConstraint("name", name=op.f("uq_resources_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "schedule_ticks",
        sa.Column("schedule", sa.String(length=120), nullable=False),
        sa.Column("tick_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "outcome",
            sa.Enum(
                "enqueued", "missed", "paused", name="tickoutcome", native_enum=False, create_constraint=True, length=20
            ),
            nullable=False,
        ),
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("schedule", "tick_at", name=op.f("pk_schedule_ticks")),
    )
    op.create_table(
        "schedules",
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("job_name", sa.String(length=120), nullable=False),
        sa.Column("timing", sa.String(length=120), nullable=False),
        sa.Column("zone", sa.String(length=60), nullable=False),
        sa.Column("first_tick_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_tick_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_schedules")),
    )
    op.create_table(
        "status_changes",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("subject_type", sa.String(length=60), nullable=False),
        sa.Column("subject_id", sa.String(length=40), nullable=False),
        sa.Column("field", sa.String(length=40), nullable=False),
        sa.Column("old", sa.String(length=80), nullable=True),
        sa.Column("new", sa.String(length=80), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("batch_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_status_changes")),
    )
    with op.batch_alter_table("status_changes", schema=None) as batch_op:
        batch_op.create_index(
            "ix_status_changes_batch_id",
            ["batch_id"],
            unique=False,
            sqlite_where=sa.text("batch_id IS NOT NULL"),
            postgresql_where=sa.text("batch_id IS NOT NULL"),
        )
        batch_op.create_index("ix_status_changes_subject", ["subject_type", "subject_id", "id"], unique=False)

    op.create_table(
        "users",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("username", sa.String(length=40), nullable=False),
        sa.Column("username_key", sa.String(length=40), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("password_hash", sa.String(length=200), nullable=False),
        sa.Column(
            "role",
            sa.Enum("admin", "staff", "member", name="role", native_enum=False, create_constraint=True, length=20),
            nullable=False,
        ),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("time_zone", sa.String(length=60), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("session_nonce", sa.Uuid(as_uuid=False), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
        sa.UniqueConstraint("username_key", name=op.f("uq_users_username_key")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "worker_processes",
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("host", sa.String(length=80), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("queues", sa.String(length=200), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_worker_processes")),
    )
    op.create_table(
        "access_tokens",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_access_tokens_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_tokens")),
        sa.UniqueConstraint("hash", name=op.f("uq_access_tokens_hash")),
    )
    with op.batch_alter_table("access_tokens", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_access_tokens_user_id"), ["user_id"], unique=False)

    op.create_table(
        "job_attempts",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column(
            "outcome",
            sa.Enum(
                "failed",
                "timed_out",
                "interrupted",
                "cancelled",
                name="attemptoutcome",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("worker", sa.String(length=80), nullable=True),
        sa.Column("host", sa.String(length=80), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("error_type", sa.String(length=120), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["job_records.id"], name=op.f("fk_job_attempts_job_id_job_records"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_attempts")),
    )
    with op.batch_alter_table("job_attempts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_job_attempts_job_id"), ["job_id"], unique=False)

    op.create_table(
        "reservations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("customer_id", sa.Integer(), nullable=False),
        sa.Column("resource_id", sa.Integer(), nullable=True),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("duration_minutes", sa.Integer(), nullable=False),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("party_size", sa.Integer(), nullable=False),
        sa.Column("note", sa.String(length=500), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "pending",
                "confirmed",
                "completed",
                "cancelled",
                name="reservationstatus",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("created_by_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("duration_minutes BETWEEN 15 AND 1440", name=op.f("ck_reservations_duration_minutes")),
        sa.CheckConstraint("end_time > start_time", name=op.f("ck_reservations_end_time")),
        sa.CheckConstraint("party_size >= 1", name=op.f("ck_reservations_party_size")),
        sa.ForeignKeyConstraint(["created_by_id"], ["users.id"], name=op.f("fk_reservations_created_by_id_users")),
        sa.ForeignKeyConstraint(["customer_id"], ["users.id"], name=op.f("fk_reservations_customer_id_users")),
        sa.ForeignKeyConstraint(["resource_id"], ["resources.id"], name=op.f("fk_reservations_resource_id_resources")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservations")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("reservations", schema=None) as batch_op:
        batch_op.create_index(
            "ix_reservations_customer_id_start_time_id", ["customer_id", "start_time", "id"], unique=False
        )
        batch_op.create_index("ix_reservations_resource_id_start_time", ["resource_id", "start_time"], unique=False)
        batch_op.create_index("ix_reservations_start_time_id", ["start_time", "id"], unique=False)
        batch_op.create_index("ix_reservations_status_start_time_id", ["status", "start_time", "id"], unique=False)

    for statement in NO_OVERLAP[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade():
    with op.batch_alter_table("reservations", schema=None) as batch_op:
        batch_op.drop_index("ix_reservations_status_start_time_id")
        batch_op.drop_index("ix_reservations_start_time_id")
        batch_op.drop_index("ix_reservations_resource_id_start_time")
        batch_op.drop_index("ix_reservations_customer_id_start_time_id")

    op.drop_table("reservations")
    with op.batch_alter_table("job_attempts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_job_attempts_job_id"))

    op.drop_table("job_attempts")
    with op.batch_alter_table("access_tokens", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_access_tokens_user_id"))

    op.drop_table("access_tokens")
    op.drop_table("worker_processes")
    op.drop_table("users")
    with op.batch_alter_table("status_changes", schema=None) as batch_op:
        batch_op.drop_index("ix_status_changes_subject")
        batch_op.drop_index(
            "ix_status_changes_batch_id",
            sqlite_where=sa.text("batch_id IS NOT NULL"),
            postgresql_where=sa.text("batch_id IS NOT NULL"),
        )

    op.drop_table("status_changes")
    op.drop_table("schedules")
    op.drop_table("schedule_ticks")
    op.drop_table("resources")
    with op.batch_alter_table("job_records", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_job_records_live_unique_key",
            sqlite_where=sa.text(
                "unique_key IS NOT NULL AND state IN ('pending', 'queued', 'retryable', 'running', 'scheduled')"
            ),
            postgresql_where=sa.text(
                "unique_key IS NOT NULL AND state IN ('pending', 'queued', 'retryable', 'running', 'scheduled')"
            ),
        )
        batch_op.drop_index("ix_job_records_subject")
        batch_op.drop_index("ix_job_records_state_scheduled_at")
        batch_op.drop_index("ix_job_records_state_id")
        batch_op.drop_index("ix_job_records_name_id")
        batch_op.drop_index("ix_job_records_finished_at")

    op.drop_table("job_records")
    with op.batch_alter_table("email_messages", schema=None) as batch_op:
        batch_op.drop_index("ix_email_messages_subject")
        batch_op.drop_index("ix_email_messages_state_id")
        batch_op.drop_index("ix_email_messages_recipient")
        batch_op.drop_index("ix_email_messages_kind_id")
        batch_op.drop_index("ix_email_messages_job_id")
        batch_op.drop_index("ix_email_messages_created_at")
        batch_op.drop_index("ix_email_messages_change_id")

    op.drop_table("email_messages")
