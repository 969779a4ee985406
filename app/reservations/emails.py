"""Mails about reservations: one context for each mail, read with one query for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from flask import current_app

from app.accounts import READER_ZONE, User
from app.reservations.models import Reservation, Resource
from flask_belfry.core.presentation import clock, localdate, localtime
from flask_belfry.db import db
from flask_belfry.mail import MailEntry, mail_kind

# By one user; the list of reservations shows all.
MAX_NEW_PER_HOUR = 30

Context = dict[str, Any]
Contexts = dict[str, Context | None]


def sample_new() -> Context:
    """Return a sample: a reservation that waits for confirmation."""
    return _sample() | {
        "customer_email": "ada@example.org",
        "asked_at": "Mon 24 Nov 2025, 09:12",
        "recipient": "desk@example.org",  # not the customer, who is the sample recipient of other mails
    }


def sample_status() -> Context:
    """Return a sample: a confirmed reservation."""
    return _sample() | {
        "old": "pending",
        "new": "confirmed",
        "changed_at": "Mon 24 Nov 2025, 09:12",
        "by_customer": False,
    }


@mail_kind(
    "reservation-new",
    sample=sample_new,
    reason="new reservations are reported to this email address",
    hourly_cap=MAX_NEW_PER_HOUR,
)
def reservation_new(rows: Sequence[MailEntry]) -> Contexts:
    """For the desk, in the time zone of the desk."""
    zone = _desk_zone()
    return _contexts(rows, lambda entry, found: _new_context(entry, found, zone))


@mail_kind(
    "reservation-status",
    sample=sample_status,
    reason="the reservation is yours",
    choice="A reservation of mine is confirmed or cancelled",
)
def reservation_status(rows: Sequence[MailEntry]) -> Contexts:
    """For the customer, in their time zone; old and new status are those of the change, not the current one."""
    return _contexts(rows, _status_context)


def _contexts(rows: Sequence[MailEntry], build: Any) -> Contexts:
    found = _read({row.row_id for row in rows})
    contexts: Contexts = {}
    for row in rows:
        reservation = found.get(row.row_id)
        contexts[row.id] = build(row, reservation) if reservation else None
    return contexts


def _read(ids: set[int]) -> dict[int, Any]:
    query = (
        sa.select(
            Reservation.id,
            Reservation.customer_id,
            Reservation.start_time,
            Reservation.end_time,
            Reservation.party_size,
            Reservation.note,
            User.name.label("customer_name"),
            User.email.label("customer_email"),
            READER_ZONE.label("time_zone"),
            Resource.name.label("resource_name"),
        )
        .join(Reservation.customer)
        .outerjoin(Reservation.resource)
        .where(Reservation.id.in_(ids))
    )
    return {row.id: row for row in db.session.execute(query)}


def _new_context(entry: MailEntry, found: Any, zone: ZoneInfo) -> Context:
    asked_at = localtime(_moment(entry.context["at"]), zone)
    return _facts(found, zone) | {"customer_email": found.customer_email, "asked_at": asked_at}


def _status_context(entry: MailEntry, found: Any) -> Context:
    zone = ZoneInfo(found.time_zone) if found.time_zone else _desk_zone()
    change: Mapping[str, Any] = entry.context
    return _facts(found, zone) | {
        "old": change["old"],
        "new": change["new"],
        "changed_at": localtime(_moment(change["at"]), zone),
        "by_customer": change["by"] == found.customer_id,
    }


def _facts(found: Any, zone: ZoneInfo) -> Context:
    return {
        "id": found.id,
        "path": f"/reservations/{found.id}",
        "customer_name": found.customer_name,
        "date": localdate(found.start_time, zone),
        "time": f"{clock(found.start_time, zone)} to {clock(found.end_time, zone)}",
        "zone": zone.key,
        "resource_name": found.resource_name,
        "party_size": found.party_size,
        "note": found.note,
    }


def _desk_zone() -> ZoneInfo:
    return ZoneInfo(current_app.config["TIMEZONE"])


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _sample() -> Context:
    start = datetime(2025, 11, 25, 14, 30, tzinfo=UTC)
    zone = ZoneInfo("UTC")
    return {
        "id": 42,
        "path": "/reservations/42",
        "customer_name": "Ada Lovelace",
        "date": localdate(start, zone),
        "time": f"{clock(start, zone)} to {clock(start + timedelta(hours=1), zone)}",
        "zone": zone.key,
        "resource_name": "Music room",
        "party_size": 3,
        "note": "We bring our own cello.",
    }
