"""The deployment's own id, by which it knows its Redis database; whether its scheduler gets its work done.

Revision ID: 0011
Revises: 0010
Create Date: 2026-11-29 22:00:00.000000

"""

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade():
    deployments = op.create_table(
        "deployments",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("scheduler_passed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("scheduler_error", sa.String(length=500), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployments")),
    )
    op.bulk_insert(deployments, [{"id": str(uuid4())}])


def downgrade():
    op.drop_table("deployments")
