"""Personal data in reservations: times, resources and notes of customers."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.personal_data import Part, Person, exempt, register, rows_of
from app.reservations.models import OPEN, Reservation, ReservationStatus, Resource
from flask_belfry.changes import StatusChange, subject_type
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db

UNSYNCHRONIZED = {"synchronize_session": False}


def export(person: Person) -> list[dict[str, Any]]:
    """Return the reservations of a person."""
    columns = (
        Reservation.id,
        Reservation.start_time,
        Reservation.end_time,
        Resource.name.label("resource"),
        Reservation.party_size,
        Reservation.note,
        Reservation.status,
        Reservation.created_at,
    )
    query = sa.select(*columns).outerjoin(Reservation.resource).where(Reservation.customer_id == person.id)
    return rows_of(query.order_by(Reservation.id))


def erase(person: Person) -> None:
    """Cancel future reservations and remove the notes, without mails: the customer has no email address any more."""
    theirs = Reservation.customer_id == person.id
    to_come = sa.and_(theirs, Reservation.status.in_(OPEN), Reservation.start_time > utc_now())
    db.session.execute(sa.update(Reservation).where(to_come).values(status=ReservationStatus.CANCELLED))
    db.session.execute(sa.update(Reservation).where(theirs, Reservation.note != "").values(note=""))
    # After the notes: their removal is recorded too, with the old text.
    ids = sa.select(sa.cast(Reservation.id, sa.String)).where(theirs)
    notes = sa.update(StatusChange).where(
        StatusChange.subject_type == subject_type(Reservation),
        StatusChange.subject_id.in_(ids),
        StatusChange.field == Reservation.note.key,
    )
    db.session.execute(notes.values(old=None, new=None), execution_options=UNSYNCHRONIZED)


register(
    Part(
        "reservations",
        (Reservation.customer_id,),
        export,
        erase,
        "Your future reservations are cancelled. Past ones are kept without your name and your notes.",
    )
)
exempt("the creator: the id of a user whose name is erased", Reservation.created_by_id)
