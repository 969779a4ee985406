"""Epics, their stories, and the stories' tasks: one shape, one table. Comments, watchers, and what people were told."""

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
# A character outside the basic plane takes twelve bytes, in a form and escaped in JSON.
MAX_ITEM_BYTES = 12 * MAX_DESCRIPTION_CHARACTERS + MAX_BODY_BYTES


class Kind(StrEnum):
    """What an item is, from the largest to the smallest."""

    EPIC = "epic"
    STORY = "story"
    TASK = "task"

    @property
    def parent(self) -> Kind | None:
        """What an item of this kind is a part of."""
        return PARENTS.get(self)

    @property
    def child(self) -> Kind | None:
        """What an item of this kind is divided into."""
        return next((kind for kind, parent in PARENTS.items() if parent is self), None)

    @property
    def plural(self) -> str:
        """As in `/stories`."""
        return "stories" if self is Kind.STORY else f"{self.value}s"

    @property
    def responsible(self) -> str:
        """What the person is called who sees to an item of this kind."""
        return "owner" if self is Kind.EPIC else "assignee"


PARENTS = {Kind.STORY: Kind.EPIC, Kind.TASK: Kind.STORY}


class WorkStatus(StrEnum):
    """Where an item stands. Any status may follow any other: what comes back comes back."""

    TODO = "TODO"
    IN_PROGRESS = "IN_PROGRESS"
    IN_REVIEW = "IN_REVIEW"
    DONE = "DONE"
    BLOCKED = "BLOCKED"


class Priority(StrEnum):
    """How much it matters."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"


_IS_OPEN = sa.text("status <> 'DONE'")


class WorkItem(OfSchool, Base):
    """What epics, stories and tasks share: all of it, but for the names of two columns.

    `responsible` is who sees to the item, `parent` what it is a part of; the kinds below have their own names for them.
    `position` is its place within its column of the board.
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
        # The board's columns; the lists, newest first; one's own; the parts of one; the reminders.
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
        # An id that comes back would find the old one's mails in the ledger, and send none.
        {"sqlite_autoincrement": True},
    )

    def __init__(self, **values: Any) -> None:
        values.setdefault("status", WorkStatus.TODO)
        values.setdefault("priority", Priority.MEDIUM)
        # Behind all that are there: later is further down, until somebody moves it.
        values.setdefault("position", int(utc_now().timestamp() * 1_000_000))
        super().__init__(**values)

    @validates("status", "priority")
    def _keep_words(self, field: str, value: str) -> StrEnum:
        return as_status(value) if field == "status" else as_priority(value)

    @validates("parent")
    def _keep_kinds(self, _: str, parent: WorkItem | None) -> WorkItem | None:
        if parent is not None:
            check_parent(self.of_kind(), parent)
            # What is a part of something belongs to its school.
            self.school_id = parent.school_id
        return parent

    @validates("reporter", "responsible")
    def _keep_school(self, _: str, user: User | None) -> User | None:
        if self.school_id is None and user is not None:
            self.school_id = user.school_id
        return user

    @classmethod
    def of_kind(cls) -> Kind:
        """The kind of a class of items."""
        return Kind(sa.inspect(cls).polymorphic_identity)

    @property
    def name(self) -> str:
        """As people refer to it: `Task #42`."""
        return f"{self.kind.value.capitalize()} #{self.id}"


class Epic(WorkItem):
    """What takes weeks: an owner sees to it."""

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
    """Somebody who is told of an item as its reporter is."""

    __tablename__ = "work_item_watchers"

    item_id: Mapped[int] = mapped_column(sa.ForeignKey("work_items.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True)
    since: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class WorkItemComment(OfSchool, Base):
    """What somebody said of an item."""

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


class WorkItemNotice(Base):
    """What people have been told of an item's status. A row is written under the lock of its item.

    `told_number` is the number of the last change that people were told of, or that they need not be told of; before
    `gather_until`, by the database's clock, no other mail is asked for. `told_until`, the moment of that change, is
    for processes of the version before.
    """

    __tablename__ = "work_item_notices"

    item_id: Mapped[int] = mapped_column(sa.ForeignKey("work_items.id", ondelete="CASCADE"), primary_key=True)
    told_number: Mapped[int] = mapped_column(default=0, server_default="0")
    told_until: Mapped[datetime] = mapped_column(UtcDateTime)
    gather_until: Mapped[datetime] = mapped_column(UtcDateTime)


def as_status(value: str) -> WorkStatus:
    """The status of that name. Raises InvalidInputError."""
    try:
        return WorkStatus(value)
    except ValueError:
        raise InvalidInputError("Invalid status.", {"status": [f"must be {_one_of(WorkStatus)}"]}) from None


def as_priority(value: str) -> Priority:
    """The priority of that name. Raises InvalidInputError."""
    try:
        return Priority(value)
    except ValueError:
        raise InvalidInputError("Invalid priority.", {"priority": [f"must be {_one_of(Priority)}"]}) from None


def check_parent(kind: Kind, parent: WorkItem) -> None:
    """Raises InvalidInputError unless an item of `kind` can be a part of `parent`."""
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
