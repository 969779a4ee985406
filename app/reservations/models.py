"""Resources and their reservations, and the one table of transitions. Double booking stops in overlaps.py."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship, validates

from app.accounts import User
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, InvalidInputError
from flask_belfry.db import db
from flask_belfry.db.columns import UtcDateTime, in_utc, text_enum
from flask_belfry.db.tenancy import OfSchool

DEFAULT_DURATION_MINUTES = 60
MIN_DURATION_MINUTES = 15
MAX_DURATION_MINUTES = 24 * 60
MAX_NOTE_CHARACTERS = 500
# More than any resource holds; where there is none, nothing else limits it.
MAX_PARTY_SIZE = 10_000


class ReservationStatus(StrEnum):
    """Where a reservation stands."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


# The one table of what may follow what. The last two are ends.
TRANSITIONS: dict[ReservationStatus, frozenset[ReservationStatus]] = {
    ReservationStatus.PENDING: frozenset({ReservationStatus.CONFIRMED, ReservationStatus.CANCELLED}),
    ReservationStatus.CONFIRMED: frozenset({ReservationStatus.COMPLETED, ReservationStatus.CANCELLED}),
    ReservationStatus.COMPLETED: frozenset(),
    ReservationStatus.CANCELLED: frozenset(),
}
# Reservations in these hold their resource.
OPEN = (ReservationStatus.PENDING, ReservationStatus.CONFIRMED)


class Resource(OfSchool, db.Model):
    """What can be reserved: a room, a hall, a minibus."""

    __tablename__ = "resources"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80))
    capacity: Mapped[int]
    active: Mapped[bool] = mapped_column(default=True)

    __table_args__ = (
        sa.CheckConstraint("capacity >= 1", name="capacity"),
        sa.UniqueConstraint("school_id", "name"),
        {"sqlite_autoincrement": True},
    )


class Reservation(OfSchool, db.Model):
    """A customer's claim to a time, and to a resource of their school if it names one.

    `end_time` follows from `start_time` and `duration_minutes`, also when one of them changes later; a bulk
    statement that sets one of them sets `end_time` itself.
    """

    __tablename__ = "reservations"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    resource_id: Mapped[int | None] = mapped_column(sa.ForeignKey("resources.id"), active_history=True)
    start_time: Mapped[datetime] = mapped_column(UtcDateTime, active_history=True)
    duration_minutes: Mapped[int] = mapped_column(default=DEFAULT_DURATION_MINUTES, active_history=True)
    end_time: Mapped[datetime] = mapped_column(UtcDateTime)
    party_size: Mapped[int] = mapped_column(default=1, active_history=True)
    note: Mapped[str] = mapped_column(sa.String(MAX_NOTE_CHARACTERS), default="", active_history=True)
    status: Mapped[ReservationStatus] = mapped_column(text_enum(ReservationStatus), active_history=True)
    created_by_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, onupdate=utc_now)

    customer: Mapped[User] = relationship(foreign_keys=customer_id)
    resource: Mapped[Resource | None] = relationship()

    __table_args__ = (
        sa.CheckConstraint(
            f"duration_minutes BETWEEN {MIN_DURATION_MINUTES} AND {MAX_DURATION_MINUTES}", name="duration_minutes"
        ),
        sa.CheckConstraint("end_time > start_time", name="end_time"),
        sa.CheckConstraint("party_size >= 1", name="party_size"),
        # The orders of the lists: everybody's, one school's, one customer's, one status', one resource's (overlaps).
        sa.Index("ix_reservations_start_time_id", "start_time", "id"),
        sa.Index("ix_reservations_school_id_start_time_id", "school_id", "start_time", "id"),
        sa.Index("ix_reservations_customer_id_start_time_id", "customer_id", "start_time", "id"),
        sa.Index("ix_reservations_status_start_time_id", "status", "start_time", "id"),
        sa.Index("ix_reservations_resource_id_start_time", "resource_id", "start_time"),
        # An id that comes back would find the old one's mails in the ledger, and send none.
        {"sqlite_autoincrement": True},
    )

    def __init__(self, **values: Any) -> None:
        values.setdefault("status", ReservationStatus.PENDING)
        values.setdefault("duration_minutes", DEFAULT_DURATION_MINUTES)
        super().__init__(**values)

    @validates("start_time", "duration_minutes")
    def _keep_end_time(self, field: str, value: Any) -> Any:
        if isinstance(value, datetime):
            value = in_utc(value)  # an answer shows it before it has been to the database and back
        start = value if field == "start_time" else self.start_time
        minutes = value if field == "duration_minutes" else self.duration_minutes
        if start is not None and minutes is not None:
            self.end_time = start + timedelta(minutes=minutes)
        return value

    @validates("status")
    def _keep_transitions(self, _: str, value: str) -> ReservationStatus:
        target = as_status(value)
        # A row that is being made may begin anywhere: an import knows ended ones.
        if self.status is not None and target != self.status:
            check_transition(self, target)
        return target

    @property
    def is_open(self) -> bool:
        """Whether it still stands."""
        return self.status in OPEN


def as_status(value: str) -> ReservationStatus:
    """The status of that name. Raises InvalidInputError."""
    try:
        return ReservationStatus(value)
    except ValueError:
        takes = f"must be one of {', '.join(ReservationStatus)}"
        raise InvalidInputError("Invalid status.", {"status": [takes]}) from None


def check_transition(reservation: Reservation, target: ReservationStatus) -> None:
    """Raises ConflictError, which names both statuses, unless the table of transitions has this one."""
    if target not in TRANSITIONS[reservation.status]:
        described = f"Reservation #{reservation.id} is {reservation.status} and cannot become {target}."
        raise ConflictError(described, {"status": [f"{reservation.status} does not become {target}"]})
