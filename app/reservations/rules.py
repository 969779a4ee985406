"""Permissions for reservations, as rules for `app.accounts.can`."""

from __future__ import annotations

from app.accounts import User, allow
from app.reservations.models import TRANSITIONS, Reservation, ReservationStatus


def declare() -> None:
    """Declare the rules; called once, when the slice is imported."""
    allow("reservations.view_all", _is_staff)
    allow("reservations.create", _is_anybody)
    allow("reservations.create_for_others", _is_staff)
    allow("reservations.create_in_the_past", _is_staff)
    allow("reservations.view", _is_staff_or_customer)
    allow("reservations.update", _may_update)
    allow("reservations.delete", _is_staff)
    for status in ReservationStatus:
        allow(status_action(status), _is_staff)
    allow(status_action(ReservationStatus.CANCELLED), _is_staff_or_customer)


def status_action(status: ReservationStatus) -> str:
    """Return the name of the permission to set `status`."""
    return f"reservations.set_{status}"


def following(reservation: Reservation) -> list[ReservationStatus]:
    """Return the statuses that may follow, in the order of the enum."""
    return [status for status in ReservationStatus if status in TRANSITIONS[reservation.status]]


def _is_anybody(_: User, __: object) -> bool:
    return True


def _is_staff(user: User, _: object) -> bool:
    return user.is_staff


def _is_staff_or_customer(user: User, row: object) -> bool:
    return user.is_staff or (isinstance(row, Reservation) and row.customer_id == user.id)


def _may_update(user: User, row: object) -> bool:
    # Staff confirmed these values: customers ask staff for a change, or cancel and make a new reservation.
    if not isinstance(row, Reservation):
        return False
    return user.is_staff or (row.customer_id == user.id and row.status == ReservationStatus.PENDING)
