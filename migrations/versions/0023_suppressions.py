"""Suppressed email addresses and held domains.

Revision ID: 0023
Revises: 0022
Create Date: 2026-11-30 12:20:00

"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds their tables."""
    email = sa.String(320).with_variant(sa.String(320, collation="C"), "postgresql")
    op.create_table(
        "email_suppressions",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("email", email, nullable=False),
        sa.Column("status_code", sa.String(11), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column(
            "source",
            sa.Enum(
                "smtp",
                "bounce",
                "admin",
                name="suppressionsource",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("email_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_email_suppressions")),
        sa.UniqueConstraint("email", name=op.f("uq_email_suppressions_email")),
    )
    op.create_table(
        "mail_domain_holds",
        sa.Column("domain", sa.String(255), nullable=False),
        sa.Column("refusals", sa.Integer(), nullable=False),
        sa.Column("probes", sa.Integer(), nullable=False),
        sa.Column("last_reply", sa.Text(), nullable=False),
        sa.Column("held_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("domain", name=op.f("pk_mail_domain_holds")),
    )


def downgrade() -> None:
    """Drops them with their rows."""
    op.drop_table("mail_domain_holds")
    op.drop_table("email_suppressions")
