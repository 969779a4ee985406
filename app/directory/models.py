"""The tables of classes, students and their guardians."""

from __future__ import annotations

from datetime import date, datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.accounts import User
from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base
from flask_belfry.db.columns import UtcDateTime
from flask_belfry.db.tenancy import OfSchool

MAX_CLASS_NAME_CHARACTERS = 80
MAX_NUMBER_CHARACTERS = 40
MAX_STUDENT_NAME_CHARACTERS = 120
MAX_RELATION_CHARACTERS = 40
MAX_REASON_CHARACTERS = 200


class SchoolClass(OfSchool, Base):
    """A class of a school, such as "7b"."""

    __tablename__ = "school_classes"
    __subject_type__ = "school_class"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(MAX_CLASS_NAME_CHARACTERS), active_history=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)

    __table_args__ = (sa.UniqueConstraint("school_id", "name"), {"sqlite_autoincrement": True})


class Student(OfSchool, Base):
    """A student: enrolled from `enrolled_on` until `left_on`, which is the first day after the last one."""

    __tablename__ = "students"

    id: Mapped[int] = mapped_column(primary_key=True)
    # Given by the school, which identifies the student by it.
    number: Mapped[str] = mapped_column(sa.String(MAX_NUMBER_CHARACTERS), active_history=True)
    name: Mapped[str] = mapped_column(sa.String(MAX_STUDENT_NAME_CHARACTERS), active_history=True)
    class_id: Mapped[int | None] = mapped_column(sa.ForeignKey("school_classes.id"), active_history=True)
    enrolled_on: Mapped[date] = mapped_column(sa.Date, active_history=True)
    left_on: Mapped[date | None] = mapped_column(sa.Date, active_history=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)

    school_class: Mapped[SchoolClass | None] = relationship()
    guardians: Mapped[list[Guardian]] = relationship(
        back_populates="student", cascade="all, delete-orphan", passive_deletes=True
    )

    __table_args__ = (
        sa.UniqueConstraint("school_id", "number"),
        sa.CheckConstraint("left_on IS NULL OR left_on > enrolled_on", name="left_on"),
        sa.Index("ix_students_school_id_name_id", "school_id", "name", "id"),
        sa.Index("ix_students_class_id", "class_id"),
        {"sqlite_autoincrement": True},
    )


class Guardian(OfSchool, Base):
    """A user who is responsible for a student. One with a contact restriction, such as one of custody, gets nothing."""

    __tablename__ = "guardians"

    id: Mapped[int] = mapped_column(primary_key=True)
    student_id: Mapped[int] = mapped_column(sa.ForeignKey("students.id", ondelete="CASCADE"))
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"), index=True)
    relation: Mapped[str] = mapped_column(sa.String(MAX_RELATION_CHARACTERS), default="", active_history=True)
    is_restricted: Mapped[bool] = mapped_column(default=False, active_history=True)
    restriction_reason: Mapped[str | None] = mapped_column(sa.String(MAX_REASON_CHARACTERS), active_history=True)

    student: Mapped[Student] = relationship(back_populates="guardians")
    user: Mapped[User] = relationship()

    __table_args__ = (sa.UniqueConstraint("student_id", "user_id"), {"sqlite_autoincrement": True})
