"""What Flask-Security keeps of a user: sessions, second factors, logins.

Revision ID: 0005
Revises: 0003
Create Date: 2026-11-22 05:05:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0003"
branch_labels = None
depends_on = None

ADDED = {
    "tf_primary_method": sa.String(64),
    "tf_totp_secret": sa.String(255),
    "tf_last_counter": sa.Integer(),
    "mf_recovery_codes": sa.JSON(none_as_null=True),
    "last_login_at": sa.DateTime(timezone=True),
    "last_login_ip": sa.String(64),
    "current_login_at": sa.DateTime(timezone=True),
    "current_login_ip": sa.String(64),
}
# What SQLite loses when a table is rebuilt.
KEPT = {
    "table_args": (sa.CheckConstraint("role IN ('admin', 'staff', 'member')", name="role"),),
    "table_kwargs": {"sqlite_autoincrement": True},
}


def upgrade() -> None:
    """Adds the columns. Sessions end: they carried another form of the value that names them."""
    op.add_column("users", sa.Column("fs_uniquifier", sa.String(64)))
    op.execute("UPDATE users SET fs_uniquifier = CAST(session_nonce AS VARCHAR(64))")
    with op.batch_alter_table("users", **KEPT) as table:
        for name, type_ in ADDED.items():
            table.add_column(sa.Column(name, type_))
        table.add_column(sa.Column("login_count", sa.Integer(), nullable=False, server_default="0"))
        table.alter_column("fs_uniquifier", existing_type=sa.String(64), nullable=False)
        table.create_unique_constraint("uq_users_fs_uniquifier", ["fs_uniquifier"])
        table.drop_column("session_nonce")
    with op.batch_alter_table("users", **KEPT) as table:
        table.alter_column("login_count", existing_type=sa.Integer(), existing_nullable=False, server_default=None)


def downgrade() -> None:
    """Takes them away."""
    op.add_column("users", sa.Column("session_nonce", sa.Uuid(as_uuid=False)))
    cast = (
        "CAST(fs_uniquifier AS UUID)"
        if op.get_bind().dialect.name == "postgresql"
        else "replace(fs_uniquifier, '-', '')"
    )
    op.execute(f"UPDATE users SET session_nonce = {cast}")  # noqa: S608 - a constant of ours
    with op.batch_alter_table("users", **KEPT) as table:
        table.alter_column("session_nonce", existing_type=sa.Uuid(as_uuid=False), nullable=False)
        table.drop_constraint("uq_users_fs_uniquifier", type_="unique")
        for name in ("fs_uniquifier", "login_count", *ADDED):
            table.drop_column(name)
