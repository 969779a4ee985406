"""Reservations on the start page: those of all customers, so for staff only."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import selectinload

from app.reservations.models import Reservation, ReservationStatus
from app.reservations.queries import LIST_KEY, taking_place
from flask_belfry.db import db


def count_waiting() -> int:
    """Return the number of pending reservations."""
    query = sa.select(sa.func.count()).where(Reservation.status == ReservationStatus.PENDING)
    return db.session.scalar(query) or 0


def waiting(limit: int) -> Sequence[Reservation]:
    """Return at most `limit` pending reservations, the first to begin on top."""
    query = (
        sa.select(Reservation)
        .where(Reservation.status == ReservationStatus.PENDING)
        .order_by(*LIST_KEY)
        .limit(limit)
        .options(selectinload(Reservation.customer), selectinload(Reservation.resource))
    )
    return db.session.scalars(query).all()


def of_day(day: date, zone: ZoneInfo) -> Sequence[Reservation]:
    """Return the reservations of a day in `zone`, in order of time, without cancelled ones."""
    return taking_place(sa.select(Reservation), day, zone)
