"""Addresses are confirmed: one confirmed user for each, and the codes that mails carry.

Revision ID: 0002
Revises: 0004
Create Date: 2026-11-22 05:00:00.000000

"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0004"
branch_labels = None
depends_on = None

IS_CONFIRMED = sa.text("confirmed_at IS NOT NULL")
# What SQLite's new table would lack: Alembic reads neither from the old one.
USERS = {
    "table_args": (sa.CheckConstraint("role IN ('admin', 'staff', 'member')", name="role"),),
    "table_kwargs": {"sqlite_autoincrement": True},
}


def upgrade():
    with op.batch_alter_table("users", schema=None, **USERS) as batch_op:
        batch_op.add_column(sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.drop_constraint("uq_users_email", type_="unique")
    # Existing users were created by staff, who vouched for the email.
    op.execute("UPDATE users SET confirmed_at = created_at")
    with op.batch_alter_table("users", schema=None) as batch_op:
        batch_op.create_index("ix_users_email", ["email"], unique=False)
        batch_op.create_index(
            "uq_users_confirmed_email",
            ["email"],
            unique=True,
            sqlite_where=IS_CONFIRMED,
            postgresql_where=IS_CONFIRMED,
        )
    op.create_table(
        "account_codes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column(
            "purpose",
            sa.Enum("confirm", "reset", name="codepurpose", native_enum=False, create_constraint=True, length=20),
            nullable=False,
        ),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("voided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_account_codes_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account_codes")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_account_codes_token_hash")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("account_codes", schema=None) as batch_op:
        batch_op.create_index("ix_account_codes_user_id_purpose", ["user_id", "purpose"], unique=False)
        batch_op.create_index("ix_account_codes_created_at", ["created_at"], unique=False)


def downgrade():
    op.drop_table("account_codes")
    with op.batch_alter_table("users", schema=None) as batch_op:
        batch_op.drop_index("uq_users_confirmed_email", sqlite_where=IS_CONFIRMED, postgresql_where=IS_CONFIRMED)
        batch_op.drop_index("ix_users_email")
    # Their addresses may be others': what came before knew no such users.
    op.execute("DELETE FROM users WHERE confirmed_at IS NULL")
    with op.batch_alter_table("users", schema=None, **USERS) as batch_op:
        batch_op.create_unique_constraint("uq_users_email", ["email"])
        batch_op.drop_column("confirmed_at")
