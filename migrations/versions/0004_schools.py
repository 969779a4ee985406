"""Schools, what belongs to them, and the audit log. All that there is becomes the one school's.

Revision ID: 0004
Revises: 0001
Create Date: 2026-11-22 05:00:00.000000

"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0001"
branch_labels = None
depends_on = None

# Every row of these belongs to a school. SQLite rebuilds such a table, and loses its checks unless they are listed.
OF_SCHOOL = {
    "users": {"role": "role IN ('admin', 'staff', 'member')"},
    "resources": {"capacity": "capacity >= 1"},
    "reservations": {
        "reservationstatus": "status IN ('pending', 'confirmed', 'completed', 'cancelled')",
        "duration_minutes": "duration_minutes BETWEEN 15 AND 1440",
        "end_time": "end_time > start_time",
        "party_size": "party_size >= 1",
    },
}
# Rows of these may be the system's own.
OF_SCHOOL_OR_SYSTEM = ("job_records", "status_changes", "email_messages")

_SQLITE_TEST = (
    "WHEN NEW.resource_id IS NOT NULL AND NEW.status IN ('pending', 'confirmed') "
    "BEGIN SELECT RAISE(ABORT, 'reservation_overlaps') WHERE EXISTS (SELECT 1 FROM reservations "
    "WHERE resource_id = NEW.resource_id AND status IN ('pending', 'confirmed') "
    "AND start_time < NEW.end_time AND end_time > NEW.start_time AND id IS NOT {own_id}); END"
)
# They are dropped with the table that is rebuilt.
SQLITE_TRIGGERS = (
    "CREATE TRIGGER reservations_no_overlap_insert BEFORE INSERT ON reservations " + _SQLITE_TEST.format(own_id="NULL"),
    "CREATE TRIGGER reservations_no_overlap_update "
    "BEFORE UPDATE OF resource_id, start_time, end_time, status ON reservations "
    + _SQLITE_TEST.format(own_id="OLD.id"),
)


def upgrade():
    schools = op.create_table(
        "schools",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("slug", sa.String(length=60), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schools")),
        sa.UniqueConstraint("slug", name=op.f("uq_schools_slug")),
        sqlite_autoincrement=True,
    )
    op.bulk_insert(schools, [{"name": "School", "slug": "school", "created_at": datetime.now(UTC)}])
    for table in (*OF_SCHOOL, *OF_SCHOOL_OR_SYSTEM):
        op.add_column(table, sa.Column("school_id", sa.Integer(), nullable=True))
    for table in OF_SCHOOL:
        op.execute(f"UPDATE {table} SET school_id = (SELECT id FROM schools)")  # noqa: S608 - constants
    # Events without a row and without a user are the system's own.
    for table in OF_SCHOOL_OR_SYSTEM:
        op.execute(
            f"UPDATE {table} SET school_id = (SELECT id FROM schools) "  # noqa: S608 - constants
            "WHERE user_id IS NOT NULL OR subject_type IN ('user', 'resource', 'reservation')"
        )
    for table in OF_SCHOOL:
        with _remade(table) as batch_op:
            batch_op.alter_column("school_id", existing_type=sa.Integer(), nullable=False)
            batch_op.create_foreign_key(op.f(f"fk_{table}_school_id_schools"), "schools", ["school_id"], ["id"])
            if table == "resources":
                batch_op.drop_constraint("uq_resources_name", type_="unique")
                batch_op.create_unique_constraint(op.f("uq_resources_school_id_name"), ["school_id", "name"])
    _make_triggers()
    op.create_index("ix_users_school_id", "users", ["school_id"])
    op.create_index("ix_reservations_school_id_start_time_id", "reservations", ["school_id", "start_time", "id"])
    for table in OF_SCHOOL_OR_SYSTEM:
        op.create_index(f"ix_{table}_school_id_id", table, ["school_id", "id"])
    op.add_column("status_changes", sa.Column("address", sa.String(length=64), nullable=True))
    _create_audit()


def downgrade():
    op.drop_table("audit_entries")
    op.drop_index("ix_status_changes_user_id_id", table_name="status_changes")
    op.drop_column("status_changes", "address")
    for table in OF_SCHOOL_OR_SYSTEM:
        op.drop_index(f"ix_{table}_school_id_id", table_name=table)
        op.drop_column(table, "school_id")
    op.drop_index("ix_reservations_school_id_start_time_id", table_name="reservations")
    op.drop_index("ix_users_school_id", table_name="users")
    for table in OF_SCHOOL:
        with _remade(table) as batch_op:
            if table == "resources":
                batch_op.drop_constraint("uq_resources_school_id_name", type_="unique")
                batch_op.create_unique_constraint(op.f("uq_resources_name"), ["name"])
            batch_op.drop_constraint(f"fk_{table}_school_id_schools", type_="foreignkey")
            batch_op.drop_column("school_id")
    _make_triggers()
    op.drop_table("schools")


def _remade(table):
    checks = [sa.CheckConstraint(text, name=op.f(f"ck_{table}_{name}")) for name, text in OF_SCHOOL[table].items()]
    return op.batch_alter_table(table, table_args=checks, table_kwargs={"sqlite_autoincrement": True})


def _make_triggers():
    if op.get_bind().dialect.name == "sqlite":
        for statement in SQLITE_TRIGGERS:
            op.execute(statement)


def _create_audit():
    op.create_table(
        "audit_entries",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("school_id", sa.Integer(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("action", sa.String(length=60), nullable=False),
        sa.Column("subject_type", sa.String(length=60), nullable=True),
        sa.Column("subject_id", sa.String(length=40), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("job_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.Column("address", sa.String(length=64), nullable=True),
        sa.Column("user_agent", sa.String(length=160), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_entries")),
    )
    op.create_index("ix_audit_entries_school_id_id", "audit_entries", ["school_id", "id"])
    op.create_index("ix_audit_entries_action_id", "audit_entries", ["action", "id"])
    op.create_index("ix_audit_entries_user_id_id", "audit_entries", ["user_id", "id"])
    op.create_index("ix_audit_entries_subject", "audit_entries", ["subject_type", "subject_id", "id"])
    op.create_index(
        "ix_status_changes_user_id_id",
        "status_changes",
        ["user_id", "id"],
        sqlite_where=sa.text("user_id IS NOT NULL"),
        postgresql_where=sa.text("user_id IS NOT NULL"),
    )
