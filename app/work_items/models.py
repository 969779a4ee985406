"""Epics, stories and tasks in one table, with comments, watchers and digest entries."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship, synonym, validates

from app.accounts import User
from app.web.bodies import MAX_BODY_BYTES
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db import Base
from flask_belfry.db.columns import UtcDateTime, text_enum
from flask_belfry.db.tenancy import OfSchool

MAX_TITLE_CHARACTERS = 200
MAX_DESCRIPTION_CHARACTERS = 10_000
MAX_COMMENT_CHARACTERS = 5_000
# A character outside the basic multilingual plane needs twelve bytes, in a form and escaped in JSON.
MAX_ITEM_BYTES = 12 * MAX_DESCRIPTION_CHARACTERS + MAX_BODY_BYTES


class Kind(StrEnum):
    """The kind of an item, from the largest to the smallest."""

    EPIC = "epic"
    STORY = "story"
    TASK = "task"

    @property
    def parent(self) -> Kind | None:
        """The kind of the parent of an item of this kind."""
        return PARENTS.get(self)

    @property
    def child(self) -> Kind | None:
        """The kind of the parts of an item of this kind."""
        return next((kind for kind, parent in PARENTS.items() if parent is self), None)

    @property
    def plural(self) -> str:
        """As in `/stories`."""
        return "stories" if self is Kind.STORY else f"{self.value}s"

    @property
    def responsible(self) -> str:
        """The word for the person responsible for an item of this kind."""
        return "owner" if self is Kind.EPIC else "assignee"


PARENTS = {Kind.STORY: Kind.EPIC, Kind.TASK: Kind.STORY}


class WorkStatus(StrEnum):
    """The status of an item. Any status may follow any other."""

    TODO = "TODO"
    IN_PROGRESS = "IN_PROGRESS"
    IN_REVIEW = "IN_REVIEW"
    DONE = "DONE"
    BLOCKED = "BLOCKED"


class Priority(StrEnum):
    """The priority of an item."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"


_IS_OPEN = sa.text("status <> 'DONE'")


class WorkItem(OfSchool, Base):
    """An epic, story or task. The kinds differ only in the names of two columns.

    `responsible` is the person in charge of the item, `parent` the item that it is part of; the subclasses have their
    own names for both. `position` is the place of the card in its column of the board.
    """

    __tablename__ = "work_items"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[Kind] = mapped_column(text_enum(Kind))
    parent_id: Mapped[int | None] = mapped_column(sa.ForeignKey("work_items.id"), active_history=True)
    title: Mapped[str] = mapped_column(sa.String(MAX_TITLE_CHARACTERS), active_history=True)
    description: Mapped[str] = mapped_column(sa.Text, default="")
    status: Mapped[WorkStatus] = mapped_column(text_enum(WorkStatus), active_history=True)
    priority: Mapped[Priority] = mapped_column(text_enum(Priority), active_history=True)
    due_date: Mapped[date | None] = mapped_column(active_history=True)
    position: Mapped[int] = mapped_column(sa.BigInteger)
    responsible_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"), active_history=True)
    reporter_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"), active_history=True)
    created_by_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, onupdate=utc_now)

    responsible: Mapped[User | None] = relationship(foreign_keys=responsible_id)
    reporter: Mapped[User | None] = relationship(foreign_keys=reporter_id)
    parent: Mapped[WorkItem | None] = relationship(remote_side=id)

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_abstract": True}
    __table_args__ = (
        sa.CheckConstraint("(kind = 'epic') = (parent_id IS NULL)", name="parent"),
        # The columns of the board; the lists, newest first; the items of a person; the parts of an item; reminders.
        sa.Index("ix_work_items_school_id_status_position_id", "school_id", "status", "position", "id"),
        sa.Index("ix_work_items_school_id_id", "school_id", "id"),
        sa.Index("ix_work_items_responsible_id_id", "responsible_id", "id"),
        sa.Index("ix_work_items_reporter_id_id", "reporter_id", "id"),
        sa.Index("ix_work_items_parent_id_id", "parent_id", "id"),
        sa.Index(
            "ix_work_items_due_date",
            "due_date",
            sqlite_where=_IS_OPEN,
            postgresql_where=_IS_OPEN,
        ),
        # A reused id would match the mails of the deleted item in the ledger, and send no mails.
        {"sqlite_autoincrement": True},
    )

    def __init__(self, **values: Any) -> None:
        values.setdefault("status", WorkStatus.TODO)
        values.setdefault("priority", Priority.MEDIUM)
        # Below all existing cards: newer cards are further down until they are moved.
        values.setdefault("position", int(utc_now().timestamp() * 1_000_000))
        super().__init__(**values)

    @validates("status", "priority")
    def _keep_words(self, field: str, value: str) -> StrEnum:
        return as_status(value) if field == "status" else as_priority(value)

    @validates("parent")
    def _keep_kinds(self, _: str, parent: WorkItem | None) -> WorkItem | None:
        if parent is not None:
            check_parent(self.of_kind(), parent)
            # A part belongs to the school of its parent.
            self.school_id = parent.school_id
        return parent

    @validates("reporter", "responsible")
    def _keep_school(self, _: str, user: User | None) -> User | None:
        if self.school_id is None and user is not None:
            self.school_id = user.school_id
        return user

    @classmethod
    def of_kind(cls) -> Kind:
        """Return the kind of a subclass."""
        return Kind(sa.inspect(cls).polymorphic_identity)

    @property
    def name(self) -> str:
        """The name on pages and in messages: `Task #42`."""
        return f"{self.kind.value.capitalize()} #{self.id}"


class Epic(WorkItem):
    """A goal of several weeks, with an owner."""

    __mapper_args__ = {"polymorphic_identity": Kind.EPIC}

    owner = synonym("responsible")
    owner_id = synonym("responsible_id")


class Story(WorkItem):
    """A part of an epic."""

    __mapper_args__ = {"polymorphic_identity": Kind.STORY}

    epic = synonym("parent")
    epic_id = synonym("parent_id")
    assignee = synonym("responsible")
    assignee_id = synonym("responsible_id")


class Task(WorkItem):
    """A part of a story."""

    __mapper_args__ = {"polymorphic_identity": Kind.TASK}

    story = synonym("parent")
    story_id = synonym("parent_id")
    assignee = synonym("responsible")
    assignee_id = synonym("responsible_id")


MODELS: dict[Kind, type[WorkItem]] = {model.of_kind(): model for model in (Epic, Story, Task)}


class WorkItemWatcher(Base):
    """A user who is notified of an item as its reporter is."""

    __tablename__ = "work_item_watchers"

    item_id: Mapped[int] = mapped_column(sa.ForeignKey("work_items.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True)
    since: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class WorkItemComment(OfSchool, Base):
    """A comment on an item."""

    __tablename__ = "work_item_comments"

    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(sa.ForeignKey("work_items.id", ondelete="CASCADE"))
    author_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"), index=True)
    text: Mapped[str] = mapped_column(sa.Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    edited_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    item: Mapped[WorkItem] = relationship()
    author: Mapped[User | None] = relationship()

    __table_args__ = (
        sa.Index("ix_work_item_comments_item_id_id", "item_id", "id"),
        {"sqlite_autoincrement": True},
    )


class DigestEntry(Base):
    """The digest entry of an item: which changes of its status are reported. Written under the lock of the item.

    `told_number` is the number of the last change that was reported, or that needs no mail. Before `gather_until`, by
    the clock of the database, no other mail is enqueued. `told_until`, the time of that change, is only for processes
    of the previous version.
    """

    __tablename__ = "work_item_notices"

    item_id: Mapped[int] = mapped_column(sa.ForeignKey("work_items.id", ondelete="CASCADE"), primary_key=True)
    told_number: Mapped[int] = mapped_column(default=0, server_default="0")
    told_until: Mapped[datetime] = mapped_column(UtcDateTime)
    gather_until: Mapped[datetime] = mapped_column(UtcDateTime)


def as_status(value: str) -> WorkStatus:
    """Return the status with a name. Raises InvalidInputError."""
    try:
        return WorkStatus(value)
    except ValueError:
        raise InvalidInputError("Invalid status.", {"status": [f"must be {_one_of(WorkStatus)}"]}) from None


def as_priority(value: str) -> Priority:
    """Return the priority with a name. Raises InvalidInputError."""
    try:
        return Priority(value)
    except ValueError:
        raise InvalidInputError("Invalid priority.", {"priority": [f"must be {_one_of(Priority)}"]}) from None


def check_parent(kind: Kind, parent: WorkItem) -> None:
    """Raise InvalidInputError unless an item of `kind` can be part of `parent`."""
    if parent.kind is not kind.parent:
        wanted = f"must be the id of one of the {kind.parent.plural}" if kind.parent else "must be absent"
        field = f"{kind.parent}_id" if kind.parent else "parent"
        raise InvalidInputError(
            f"{_article(kind)} cannot be part of {_article(parent.kind).lower()}.", {field: [wanted]}
        )


def _one_of(enum: type[StrEnum]) -> str:
    return f"one of {', '.join(enum)}"


def _article(kind: Kind) -> str:
    return f"{'An' if kind is Kind.EPIC else 'A'} {kind}"
