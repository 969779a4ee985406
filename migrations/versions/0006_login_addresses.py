"""From where people log in.

Revision ID: 0006
Revises: 0005
Create Date: 2026-11-22 07:10:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the table, and the purpose of the codes in the mails about its rows."""
    set_purposes("confirm", "reset", "address")
    op.create_table(
        "login_addresses",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("network", sa.String(length=64), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("user_agent", sa.String(length=160)),
        sa.Column(
            "state",
            sa.Enum(
                *("new", "trusted", "blocked"),
                name="addressstate",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("code_id", sa.Integer()),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_login_addresses_user_id_users"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["code_id"],
            ["account_codes.id"],
            name=op.f("fk_login_addresses_code_id_account_codes"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_login_addresses")),
        sa.UniqueConstraint("user_id", "network", name=op.f("uq_login_addresses_user_id_network")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_login_addresses_code_id"), "login_addresses", ["code_id"])


def downgrade() -> None:
    """Takes them away."""
    op.drop_table("login_addresses")
    op.execute("DELETE FROM account_codes WHERE purpose = 'address'")
    set_purposes("confirm", "reset")


def set_purposes(*purposes: str) -> None:
    # SQLite loses AUTOINCREMENT when the table is rebuilt.
    name = op.f("ck_account_codes_codepurpose")
    with op.batch_alter_table("account_codes", table_kwargs={"sqlite_autoincrement": True}) as table:
        table.drop_constraint(name, type_="check")
        table.create_check_constraint(name, f"purpose IN ({', '.join(map(repr, purposes))})")
