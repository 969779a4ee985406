"""Changes to reservations. Each function checks the permissions of the acting user; the caller commits.

A row that is changed is loaded once, by the caller, with its lock: `get(user, id, for_update=True)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from app.accounts import User, can, require
from app.reservations.models import (
    DEFAULT_DURATION_MINUTES,
    MAX_DURATION_MINUTES,
    MAX_NOTE_CHARACTERS,
    MAX_PARTY_SIZE,
    MIN_DURATION_MINUTES,
    OPEN,
    Reservation,
    ReservationStatus,
    Resource,
    as_status,
    check_transition,
)
from app.reservations.overlaps import is_overlap
from app.reservations.rules import status_action
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, InvalidInputError
from flask_belfry.db import db

# Catches a mistyped year, and keeps the limits of the calendar out of arithmetic.
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
SEATING = frozenset({"party_size", "resource_id"})
FIELDS = frozenset({"start_time", "duration_minutes", "resource_id", "party_size", "note"})


class ResourceTakenError(ConflictError):
    """The resource is already booked; `booked` has its name, start and end, if that reservation still exists."""

    def __init__(self, booked: tuple[str, datetime, datetime] | None) -> None:
        message = "It is already booked at that time."
        if booked is not None:
            name, start_time, end_time = booked
            message = f"{name} is already booked from {_utc(start_time)} to {_utc(end_time)} UTC."
        super().__init__(message, {"start_time": [message], "resource_id": ["Already booked at that time."]})
        self.booked = booked


def create(
    user: User,
    *,
    start_time: datetime,
    duration_minutes: int = DEFAULT_DURATION_MINUTES,
    resource_id: int | None = None,
    party_size: int = 1,
    note: str = "",
    customer_id: int | None = None,
) -> Reservation:
    """Create a pending reservation, flushed.

    Args:
        user: the acting user.
        start_time: aware; in the future, except for staff.
        duration_minutes: 15 to 1440.
        resource_id: an active resource, or None.
        party_size: 1 to 10,000, at most the resource's capacity.
        note: at most 500 characters.
        customer_id: the customer, for staff only; None is the acting user.

    Raises:
        InvalidInputError: names every invalid field.
        ForbiddenError: the reservation is for another customer.
        ResourceTakenError: the resource is already booked.
    """
    require(user, "reservations.create")
    if customer_id not in (None, user.id):
        require(user, "reservations.create_for_others", message="You can make reservations for yourself only.")
    values = {
        "start_time": start_time,
        "duration_minutes": duration_minutes,
        "resource_id": resource_id,
        "party_size": party_size,
        "note": note,
    }
    customer = _customer(user, customer_id)
    _check(user, values, _lock_resource(resource_id, customer.school_id), changed=frozenset(values))
    reservation = Reservation(customer=customer, school_id=customer.school_id, created_by_id=user.id, **values)
    _write(reservation, values)
    return reservation


def update(user: User, reservation: Reservation, changes: Mapping[str, Any]) -> None:
    """Change some of `FIELDS` and the status, all or nothing, flushed with one UPDATE.

    Raises:
        ForbiddenError: the user may not change it, or may not set this status.
        ConflictError: it is completed or cancelled, the status cannot follow, or the resource is already booked.
        InvalidInputError: names every invalid field.
    """
    if not FIELDS.isdisjoint(changes):
        _check_changeable(user, reservation)
    target = as_status(changes.get("status", reservation.status))
    _check_status(user, reservation, target)
    values = {name: changes.get(name, getattr(reservation, name)) for name in FIELDS}
    changed = frozenset(name for name in FIELDS if values[name] != getattr(reservation, name))
    if changed:
        _check(user, values, _lock_resource(values["resource_id"], reservation.school_id), changed)
        _write(reservation, {**values, "status": target})
    elif target is not reservation.status:
        reservation.status = target
        db.session.flush()


def set_status(user: User, reservation: Reservation, status: str, *, expected: str | None = None) -> None:
    """Set the status, flushed. Staff may set any that can follow; customers may cancel their own reservations.

    Args:
        user: the acting user.
        reservation: the row, loaded with its lock.
        status: a `ReservationStatus` or its value.
        expected: the status that the user saw; None skips the comparison.

    Raises:
        ForbiddenError, InvalidInputError: as `update`.
        ConflictError: the status cannot follow, or the current status is not `expected`.
    """
    if expected is not None and reservation.status != expected:
        raise ConflictError(f"Reservation #{reservation.id} is {reservation.status} now, no longer {expected}.")
    update(user, reservation, {"status": status})


def set_status_many(user: User, reservations: Sequence[Reservation], status: str) -> None:
    """Set the status of many reservations, all or none, flushed together. Raises as `update`."""
    target = as_status(status)
    for reservation in reservations:
        _check_status(user, reservation, target)
        reservation.status = target
    db.session.flush()


def delete(user: User, reservation: Reservation) -> None:
    """Delete a reservation; its mails and changes are kept. Raises ForbiddenError for customers, who cancel instead."""
    require(user, "reservations.delete", reservation, message="Only staff can delete a reservation; cancel it instead.")
    db.session.delete(reservation)
    db.session.flush()


def _check_changeable(user: User, reservation: Reservation) -> None:
    require(
        user,
        "reservations.update",
        reservation,
        message=f"Reservation #{reservation.id} is {reservation.status}: ask the school's office to change it.",
    )
    if not reservation.is_open:
        raise ConflictError(f"Reservation #{reservation.id} is {reservation.status} and can no longer be changed.")


def _check_status(user: User, reservation: Reservation, target: ReservationStatus) -> None:
    if target is not reservation.status:
        require(user, status_action(target), reservation, message=f"Only staff can set a reservation to {target}.")
        check_transition(reservation, target)


def _customer(user: User, customer_id: int | None) -> User:
    customer = db.session.get(User, customer_id or user.id)
    if customer is None or not customer.active:
        raise InvalidInputError("Unknown customer.", {"customer_id": ["Select an active user."]})
    return customer


def _lock_resource(resource_id: int | None, school_id: int) -> Resource | None:
    """The resource of a school, held until the commit: two bookings of one resource take turns.

    PostgreSQL's constraint refuses the second without it too, but about one time in a hundred as a deadlock: both have
    written, and each waits for the other.
    """
    if resource_id is None:
        return None
    # Of the reservation's school: an admin sees those of others too.
    query = sa.select(Resource).where(Resource.id == resource_id, Resource.school_id == school_id)
    query = query.with_for_update(key_share=True)
    return db.session.scalar(query.execution_options(populate_existing=True))


def _check(user: User, values: Mapping[str, Any], resource: Resource | None, changed: frozenset[str]) -> None:
    problems = {
        "start_time": _start_problem(user, values["start_time"]) if "start_time" in changed else None,
        "duration_minutes": _duration_problem(values["duration_minutes"]),
        "resource_id": _resource_problem(values["resource_id"], resource) if "resource_id" in changed else None,
        "party_size": _party_problem(values["party_size"], resource) if changed & SEATING else None,
        "note": _note_problem(values["note"]),
    }
    wrong = {field: [problem] for field, problem in problems.items() if problem}
    if wrong:
        raise InvalidInputError("Some fields are invalid.", wrong)


def _start_problem(user: User, start_time: datetime) -> str | None:
    if not EARLIEST <= start_time < LATEST:
        return f"Choose a time from {EARLIEST:%Y} to {LATEST:%Y}."
    if start_time <= utc_now() and not can(user, "reservations.create_in_the_past"):
        return "Choose a time in the future."
    return None


def _duration_problem(minutes: int) -> str | None:
    if MIN_DURATION_MINUTES <= minutes <= MAX_DURATION_MINUTES:
        return None
    return f"Choose {MIN_DURATION_MINUTES} to {MAX_DURATION_MINUTES} minutes."


def _resource_problem(resource_id: int | None, resource: Resource | None) -> str | None:
    if resource_id is None or (resource is not None and resource.active):
        return None
    return "Choose a resource that can be reserved."


def _party_problem(party_size: int, resource: Resource | None) -> str | None:
    if not 1 <= party_size <= MAX_PARTY_SIZE:
        return f"Choose 1 to {MAX_PARTY_SIZE}."
    if resource is not None and party_size > resource.capacity:
        return f"{resource.name} holds {resource.capacity}."
    return None


def _note_problem(note: str) -> str | None:
    return None if len(note) <= MAX_NOTE_CHARACTERS else f"Write at most {MAX_NOTE_CHARACTERS} characters."


def _write(reservation: Reservation, values: Mapping[str, Any]) -> None:
    """Set `values` and flush, in a savepoint: after a double booking the message is looked up."""
    own_id = reservation.id
    try:
        # Within the block: what is set before it is flushed before the savepoint.
        with db.session.begin_nested():
            for name, value in values.items():
                setattr(reservation, name, value)
            db.session.add(reservation)
    except IntegrityError as error:
        if not is_overlap(error):
            raise
        raise _taken(values, own_id) from error


def _taken(values: Mapping[str, Any], own_id: int | None) -> ResourceTakenError:
    end_time = values["start_time"] + timedelta(minutes=values["duration_minutes"])
    query = (
        sa.select(Resource.name, Reservation.start_time, Reservation.end_time)
        .join(Reservation.resource)
        .where(
            Resource.id == values["resource_id"],
            Reservation.status.in_(OPEN),
            Reservation.start_time < end_time,
            Reservation.end_time > values["start_time"],
            Reservation.id != (own_id or 0),
        )
        .order_by(Reservation.start_time)
        .limit(1)
    )
    found = db.session.execute(query).one_or_none()
    return ResourceTakenError(found and (found.name, found.start_time, found.end_time))


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"
