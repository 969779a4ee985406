"""The history of a reservation, with the names of its fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from app import history
from app.accounts import User, can
from app.history import SYSTEM, HistoryEntry, Origins, for_outsider
from app.reservations.models import Reservation, ReservationStatus, Resource
from flask_belfry.changes import StatusChange, subject_of
from flask_belfry.core.presentation import localtime
from flask_belfry.db import db

FIELDS = {
    "start_time": "start",
    "duration_minutes": "duration",
    "resource_id": "resource",
    "party_size": "party",
    "note": "note",
}
SWEEP = "The sweep"


def history_for(user: User, reservation: Reservation) -> list[HistoryEntry]:
    """Return the history of a reservation that `user` may see: all for staff, without others' mails for customers."""
    entries = history_of(reservation)
    if can(user, "reservations.view_all"):
        return entries
    return [for_outsider(entry, user) for entry in entries]


def history_of(reservation: Reservation) -> list[HistoryEntry]:
    """Return all entries, newest first. The caller has checked permissions."""
    origins = Origins(reservation.created_at, reservation.created_by_id, reservation.status)
    return history.history_of(subject_of(reservation), origins, _notes, _system)


def _system(change: StatusChange) -> str:
    return SWEEP if change.new == ReservationStatus.COMPLETED else SYSTEM


def _notes(changes: Sequence[StatusChange]) -> dict[str, str]:
    resources = _resource_names(changes)
    return {change.id: _note(change, resources) for change in changes}


def _note(change: StatusChange, resources: Mapping[str, str]) -> str:
    if change.old is None and change.new is None:
        return f"{FIELDS.get(change.field, change.field)}: no longer kept"
    old, new = (_value(change.field, value, resources) for value in (change.old, change.new))
    return f"{FIELDS.get(change.field, change.field)}: {old} → {new}"


def _value(field: str, value: str | None, resources: Mapping[str, str]) -> str:
    if not value:
        return "none"
    if field == Reservation.start_time.key:
        return localtime(datetime.fromisoformat(value))
    if field == Reservation.duration_minutes.key:
        return f"{value} min"
    return resources.get(value, value) if field == Reservation.resource_id.key else value


def _resource_names(changes: Iterable[StatusChange]) -> dict[str, str]:
    of_resource = [change for change in changes if change.field == Reservation.resource_id.key]
    ids = {int(id) for change in of_resource for id in (change.old, change.new) if id}
    if not ids:
        return {}
    query = sa.select(Resource.id, Resource.name).where(Resource.id.in_(ids))
    return {str(row.id): row.name for row in db.session.execute(query)}
