"""Classes, students, devices and notifications; a time zone of each school.

Revision ID: 0018
Revises: 0017
Create Date: 2026-11-30 12:00:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds their tables, and columns of the schools."""
    with op.batch_alter_table("schools") as batch_op:
        batch_op.add_column(sa.Column("time_zone", sa.String(60), nullable=True))
        batch_op.add_column(sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True))

    op.create_table(
        "school_classes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("school_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["school_id"], ["schools.id"], name=op.f("fk_school_classes_school_id_schools")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_school_classes")),
        sa.UniqueConstraint("school_id", "name", name=op.f("uq_school_classes_school_id_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "devices",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("token", "fid", name="devicekind", native_enum=False, create_constraint=True, length=20),
            nullable=False,
        ),
        sa.Column("token", sa.String(length=500), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_devices_user_id_users"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_devices")),
        sa.UniqueConstraint("token", name=op.f("uq_devices_token")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("devices") as batch_op:
        batch_op.create_index(batch_op.f("ix_devices_last_seen_at"), ["last_seen_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_devices_user_id"), ["user_id"], unique=False)

    op.create_table(
        "notification_preferences",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column(
            "type",
            sa.Enum(
                "academic",
                "behavior",
                "payment",
                "general",
                name="notificationtype",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column(
            "channel",
            sa.Enum(
                "mail",
                "push",
                "in_app",
                name="notificationchannel",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column(
            "frequency",
            sa.Enum("instant", "daily", "off", name="frequency", native_enum=False, create_constraint=True, length=20),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_notification_preferences_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "type", "channel", name=op.f("pk_notification_preferences")),
    )
    op.create_table(
        "notification_settings",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("quiet_from", sa.Time(), nullable=True),
        sa.Column("quiet_until", sa.Time(), nullable=True),
        sa.CheckConstraint(
            "(quiet_from IS NULL) = (quiet_until IS NULL)", name=op.f("ck_notification_settings_quiet_hours")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_notification_settings_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_notification_settings")),
    )
    op.create_table(
        "notifications",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("sender_id", sa.Integer(), nullable=True),
        sa.Column(
            "state",
            sa.Enum(
                "sending",
                "finished",
                "cancelled",
                name="notificationstate",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("batch_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column(
            "type",
            sa.Enum(
                "academic",
                "behavior",
                "payment",
                "general",
                name="notificationtype",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("is_critical", sa.Boolean(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("targets", sa.JSON(), nullable=False),
        sa.Column("channels", sa.JSON(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("school_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["school_id"], ["schools.id"], name=op.f("fk_notifications_school_id_schools")),
        sa.ForeignKeyConstraint(
            ["sender_id"], ["users.id"], name=op.f("fk_notifications_sender_id_users"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notifications")),
    )
    with op.batch_alter_table("notifications") as batch_op:
        batch_op.create_index("ix_notifications_batch_id", ["batch_id"], unique=False)
        batch_op.create_index("ix_notifications_school_id_id", ["school_id", "id"], unique=False)

    op.create_table(
        "students",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("number", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("class_id", sa.Integer(), nullable=True),
        sa.Column("enrolled_on", sa.Date(), nullable=False),
        sa.Column("left_on", sa.Date(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("school_id", sa.Integer(), nullable=False),
        sa.CheckConstraint("left_on IS NULL OR left_on > enrolled_on", name=op.f("ck_students_left_on")),
        sa.ForeignKeyConstraint(["class_id"], ["school_classes.id"], name=op.f("fk_students_class_id_school_classes")),
        sa.ForeignKeyConstraint(["school_id"], ["schools.id"], name=op.f("fk_students_school_id_schools")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_students")),
        sa.UniqueConstraint("school_id", "number", name=op.f("uq_students_school_id_number")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("students") as batch_op:
        batch_op.create_index("ix_students_class_id", ["class_id"], unique=False)
        batch_op.create_index("ix_students_school_id_name_id", ["school_id", "name", "id"], unique=False)

    op.create_table(
        "guardians",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("student_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("relation", sa.String(length=40), nullable=False),
        sa.Column("is_restricted", sa.Boolean(), nullable=False),
        sa.Column("restriction_reason", sa.String(length=200), nullable=True),
        sa.Column("school_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["school_id"], ["schools.id"], name=op.f("fk_guardians_school_id_schools")),
        sa.ForeignKeyConstraint(
            ["student_id"], ["students.id"], name=op.f("fk_guardians_student_id_students"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_guardians_user_id_users"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_guardians")),
        sa.UniqueConstraint("student_id", "user_id", name=op.f("uq_guardians_student_id_user_id")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("guardians") as batch_op:
        batch_op.create_index(batch_op.f("ix_guardians_user_id"), ["user_id"], unique=False)

    op.create_table(
        "notification_deliveries",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("notification_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column(
            "channel",
            sa.Enum(
                "mail",
                "push",
                "in_app",
                name="notificationchannel",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "held",
                "deferred",
                "delivered",
                "failed",
                "skipped",
                "cancelled",
                "bounced",
                name="deliverystate",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("email_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_fallback", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("school_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["notification_id"],
            ["notifications.id"],
            name=op.f("fk_notification_deliveries_notification_id_notifications"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["school_id"], ["schools.id"], name=op.f("fk_notification_deliveries_school_id_schools")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_notification_deliveries_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notification_deliveries")),
        sa.UniqueConstraint(
            "notification_id",
            "user_id",
            "channel",
            name=op.f("uq_notification_deliveries_notification_id_user_id_channel"),
        ),
    )
    with op.batch_alter_table("notification_deliveries") as batch_op:
        batch_op.create_index(batch_op.f("ix_notification_deliveries_email_id"), ["email_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_notification_deliveries_job_id"), ["job_id"], unique=False)
        batch_op.create_index(
            "ix_notification_deliveries_notification_id_state", ["notification_id", "state"], unique=False
        )
        batch_op.create_index("ix_notification_deliveries_state_held_until", ["state", "held_until"], unique=False)
        batch_op.create_index(
            "ix_notification_deliveries_user_id_channel_id", ["user_id", "channel", "id"], unique=False
        )
        batch_op.create_index(
            "ix_notification_deliveries_user_id_channel_read_at", ["user_id", "channel", "read_at"], unique=False
        )

    op.create_table(
        "notification_recipients",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("notification_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("student_id", sa.Integer(), nullable=True),
        sa.Column("left_out", sa.String(length=200), nullable=True),
        sa.Column("school_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["notification_id"],
            ["notifications.id"],
            name=op.f("fk_notification_recipients_notification_id_notifications"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["school_id"], ["schools.id"], name=op.f("fk_notification_recipients_school_id_schools")
        ),
        sa.ForeignKeyConstraint(
            ["student_id"],
            ["students.id"],
            name=op.f("fk_notification_recipients_student_id_students"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_notification_recipients_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notification_recipients")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("notification_recipients") as batch_op:
        batch_op.create_index(
            "ix_notification_recipients_notification_id_user_id", ["notification_id", "user_id"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_notification_recipients_student_id"), ["student_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_notification_recipients_user_id"), ["user_id"], unique=False)

    op.create_table(
        "scheduled_notifications",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("sender_id", sa.Integer(), nullable=True),
        sa.Column("local_time", sa.DateTime(), nullable=False),
        sa.Column("time_zone", sa.String(length=60), nullable=False),
        sa.Column("send_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "scheduled",
                "sent",
                "cancelled",
                name="scheduledstate",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("notification_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column(
            "type",
            sa.Enum(
                "academic",
                "behavior",
                "payment",
                "general",
                name="notificationtype",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("is_critical", sa.Boolean(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("targets", sa.JSON(), nullable=False),
        sa.Column("channels", sa.JSON(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("school_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["notification_id"],
            ["notifications.id"],
            name=op.f("fk_scheduled_notifications_notification_id_notifications"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["school_id"], ["schools.id"], name=op.f("fk_scheduled_notifications_school_id_schools")
        ),
        sa.ForeignKeyConstraint(
            ["sender_id"], ["users.id"], name=op.f("fk_scheduled_notifications_sender_id_users"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scheduled_notifications")),
    )
    with op.batch_alter_table("scheduled_notifications") as batch_op:
        batch_op.create_index(
            "ix_scheduled_notifications_school_id_send_at_id", ["school_id", "send_at", "id"], unique=False
        )
        batch_op.create_index("ix_scheduled_notifications_state_send_at", ["state", "send_at"], unique=False)


def downgrade() -> None:
    """Drops them with their rows."""
    with op.batch_alter_table("scheduled_notifications") as batch_op:
        batch_op.drop_index("ix_scheduled_notifications_state_send_at")
        batch_op.drop_index("ix_scheduled_notifications_school_id_send_at_id")

    op.drop_table("scheduled_notifications")
    with op.batch_alter_table("notification_recipients") as batch_op:
        batch_op.drop_index(batch_op.f("ix_notification_recipients_user_id"))
        batch_op.drop_index(batch_op.f("ix_notification_recipients_student_id"))
        batch_op.drop_index("ix_notification_recipients_notification_id_user_id")

    op.drop_table("notification_recipients")
    with op.batch_alter_table("notification_deliveries") as batch_op:
        batch_op.drop_index("ix_notification_deliveries_user_id_channel_read_at")
        batch_op.drop_index("ix_notification_deliveries_user_id_channel_id")
        batch_op.drop_index("ix_notification_deliveries_state_held_until")
        batch_op.drop_index("ix_notification_deliveries_notification_id_state")
        batch_op.drop_index(batch_op.f("ix_notification_deliveries_job_id"))
        batch_op.drop_index(batch_op.f("ix_notification_deliveries_email_id"))

    op.drop_table("notification_deliveries")
    with op.batch_alter_table("guardians") as batch_op:
        batch_op.drop_index(batch_op.f("ix_guardians_user_id"))

    op.drop_table("guardians")
    with op.batch_alter_table("students") as batch_op:
        batch_op.drop_index("ix_students_school_id_name_id")
        batch_op.drop_index("ix_students_class_id")

    op.drop_table("students")
    with op.batch_alter_table("notifications") as batch_op:
        batch_op.drop_index("ix_notifications_school_id_id")
        batch_op.drop_index("ix_notifications_batch_id")

    op.drop_table("notifications")
    op.drop_table("notification_settings")
    op.drop_table("notification_preferences")
    with op.batch_alter_table("devices") as batch_op:
        batch_op.drop_index(batch_op.f("ix_devices_user_id"))
        batch_op.drop_index(batch_op.f("ix_devices_last_seen_at"))

    op.drop_table("devices")
    op.drop_table("school_classes")
    with op.batch_alter_table("schools") as batch_op:
        batch_op.drop_column("disabled_at")
        batch_op.drop_column("time_zone")
