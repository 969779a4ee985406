"""Resources and reservations, and the table of transitions. overlaps.py prevents double booking."""

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
# More than the capacity of any resource; the only limit of a reservation without a resource.
MAX_PARTY_SIZE = 10_000


class ReservationStatus(StrEnum):
    """The status of a reservation."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


# The statuses that may follow each status. The last two are final.
TRANSITIONS: dict[ReservationStatus, frozenset[ReservationStatus]] = {
    ReservationStatus.PENDING: frozenset({ReservationStatus.CONFIRMED, ReservationStatus.CANCELLED}),
    ReservationStatus.CONFIRMED: frozenset({ReservationStatus.COMPLETED, ReservationStatus.CANCELLED}),
    ReservationStatus.COMPLETED: frozenset(),
    ReservationStatus.CANCELLED: frozenset(),
}
# Reservations in these hold their resource.
OPEN = (ReservationStatus.PENDING, ReservationStatus.CONFIRMED)


class Resource(OfSchool, db.Model):
    """A room, a hall, a minibus: something that can be reserved."""

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
    """A reservation of a time, and optionally of a resource of the customer's school.

    `end_time` is computed from `start_time` and `duration_minutes` when one of them is set; a bulk statement that sets
    one of them must set `end_time` itself.
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
        # The orders of the lists: of all, of a school, of a customer, of a status, of a resource (overlaps).
        sa.Index("ix_reservations_start_time_id", "start_time", "id"),
        sa.Index("ix_reservations_school_id_start_time_id", "school_id", "start_time", "id"),
        sa.Index("ix_reservations_customer_id_start_time_id", "customer_id", "start_time", "id"),
        sa.Index("ix_reservations_status_start_time_id", "status", "start_time", "id"),
        sa.Index("ix_reservations_resource_id_start_time", "resource_id", "start_time"),
        # A reused id would match the mails of the deleted row in the ledger, and send no mails.
        {"sqlite_autoincrement": True},
    )

    def __init__(self, **values: Any) -> None:
        values.setdefault("status", ReservationStatus.PENDING)
        values.setdefault("duration_minutes", DEFAULT_DURATION_MINUTES)
        super().__init__(**values)

    @validates("start_time", "duration_minutes")
    def _keep_end_time(self, field: str, value: Any) -> Any:
        if isinstance(value, datetime):
            value = in_utc(value)  # a response may show it before it is read from the database
        start = value if field == "start_time" else self.start_time
        minutes = value if field == "duration_minutes" else self.duration_minutes
        if start is not None and minutes is not None:
            self.end_time = start + timedelta(minutes=minutes)
        return value

    @validates("status")
    def _keep_transitions(self, _: str, value: str) -> ReservationStatus:
        target = as_status(value)
        # A new row may have any status: an import has completed ones.
        if self.status is not None and target != self.status:
            check_transition(self, target)
        return target

    @property
    def is_open(self) -> bool:
        """Whether the reservation is pending or confirmed."""
        return self.status in OPEN


def as_status(value: str) -> ReservationStatus:
    """Return the status with a name. Raises InvalidInputError."""
    try:
        return ReservationStatus(value)
    except ValueError:
        reason = f"must be one of {', '.join(ReservationStatus)}"
        raise InvalidInputError("Invalid status.", {"status": [reason]}) from None


def check_transition(reservation: Reservation, target: ReservationStatus) -> None:
    """Raise ConflictError, which names both statuses, unless the transition is allowed."""
    if target not in TRANSITIONS[reservation.status]:
        described = f"Reservation #{reservation.id} is {reservation.status} and cannot become {target}."
        raise ConflictError(described, {"status": [f"{reservation.status} does not become {target}"]})
