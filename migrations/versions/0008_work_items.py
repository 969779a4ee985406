"""Epics, stories and tasks, their comments, watchers and notifications.

Revision ID: 0008
Revises: 0007
Create Date: 2026-11-22 07:12:26.207403

"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade():
    with op.batch_alter_table("users", schema=None) as batch_op:
        batch_op.add_column(sa.Column("skips_own_changes", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_table(
        "work_items",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("epic", "story", "task", name="kind", native_enum=False, create_constraint=True, length=20),
            nullable=False,
        ),
        sa.Column("parent_id", sa.Integer(), nullable=True),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "TODO",
                "IN_PROGRESS",
                "IN_REVIEW",
                "DONE",
                "BLOCKED",
                name="workstatus",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column(
            "priority",
            sa.Enum(
                "LOW",
                "MEDIUM",
                "HIGH",
                "CRITICAL",
                name="priority",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("due_date", sa.Date(), nullable=True),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("responsible_id", sa.Integer(), nullable=True),
        sa.Column("reporter_id", sa.Integer(), nullable=True),
        sa.Column("created_by_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("school_id", sa.Integer(), nullable=False),
        sa.CheckConstraint("(kind = 'epic') = (parent_id IS NULL)", name=op.f("ck_work_items_parent")),
        sa.ForeignKeyConstraint(["created_by_id"], ["users.id"], name=op.f("fk_work_items_created_by_id_users")),
        sa.ForeignKeyConstraint(["parent_id"], ["work_items.id"], name=op.f("fk_work_items_parent_id_work_items")),
        sa.ForeignKeyConstraint(["reporter_id"], ["users.id"], name=op.f("fk_work_items_reporter_id_users")),
        sa.ForeignKeyConstraint(["responsible_id"], ["users.id"], name=op.f("fk_work_items_responsible_id_users")),
        sa.ForeignKeyConstraint(["school_id"], ["schools.id"], name=op.f("fk_work_items_school_id_schools")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_work_items")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("work_items", schema=None) as batch_op:
        batch_op.create_index(
            "ix_work_items_due_date",
            ["due_date"],
            unique=False,
            sqlite_where=sa.text("status <> 'DONE'"),
            postgresql_where=sa.text("status <> 'DONE'"),
        )
        batch_op.create_index("ix_work_items_parent_id_id", ["parent_id", "id"], unique=False)
        batch_op.create_index("ix_work_items_reporter_id_id", ["reporter_id", "id"], unique=False)
        batch_op.create_index("ix_work_items_responsible_id_id", ["responsible_id", "id"], unique=False)
        batch_op.create_index("ix_work_items_school_id_id", ["school_id", "id"], unique=False)
        batch_op.create_index(
            "ix_work_items_school_id_status_position_id", ["school_id", "status", "position", "id"], unique=False
        )

    op.create_table(
        "work_item_comments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.Integer(), nullable=False),
        sa.Column("author_id", sa.Integer(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("edited_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("school_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["author_id"], ["users.id"], name=op.f("fk_work_item_comments_author_id_users")),
        sa.ForeignKeyConstraint(
            ["item_id"], ["work_items.id"], name=op.f("fk_work_item_comments_item_id_work_items"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["school_id"], ["schools.id"], name=op.f("fk_work_item_comments_school_id_schools")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_work_item_comments")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("work_item_comments", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_work_item_comments_author_id"), ["author_id"], unique=False)
        batch_op.create_index("ix_work_item_comments_item_id_id", ["item_id", "id"], unique=False)

    op.create_table(
        "work_item_notices",
        sa.Column("item_id", sa.Integer(), nullable=False),
        sa.Column("told_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("gather_until", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["item_id"], ["work_items.id"], name=op.f("fk_work_item_notices_item_id_work_items"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("item_id", name=op.f("pk_work_item_notices")),
    )
    op.create_table(
        "work_item_watchers",
        sa.Column("item_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["item_id"], ["work_items.id"], name=op.f("fk_work_item_watchers_item_id_work_items"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_work_item_watchers_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("item_id", "user_id", name=op.f("pk_work_item_watchers")),
    )
    with op.batch_alter_table("work_item_watchers", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_work_item_watchers_user_id"), ["user_id"], unique=False)


def downgrade():
    with op.batch_alter_table("work_item_watchers", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_work_item_watchers_user_id"))

    op.drop_table("work_item_watchers")
    op.drop_table("work_item_notices")
    with op.batch_alter_table("work_item_comments", schema=None) as batch_op:
        batch_op.drop_index("ix_work_item_comments_item_id_id")
        batch_op.drop_index(batch_op.f("ix_work_item_comments_author_id"))

    op.drop_table("work_item_comments")
    with op.batch_alter_table("work_items", schema=None) as batch_op:
        batch_op.drop_index("ix_work_items_school_id_status_position_id")
        batch_op.drop_index("ix_work_items_school_id_id")
        batch_op.drop_index("ix_work_items_responsible_id_id")
        batch_op.drop_index("ix_work_items_reporter_id_id")
        batch_op.drop_index("ix_work_items_parent_id_id")
        batch_op.drop_index(
            "ix_work_items_due_date",
            sqlite_where=sa.text("status <> 'DONE'"),
            postgresql_where=sa.text("status <> 'DONE'"),
        )

    op.drop_table("work_items")
    with op.batch_alter_table("users", schema=None) as batch_op:
        batch_op.drop_column("skips_own_changes")
