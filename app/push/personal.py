"""Personal data in devices."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.personal_data import Part, Person, register, rows_of
from app.push.models import Device
from flask_belfry.db import db

COLUMNS = (Device.kind, Device.name, Device.created_at, Device.last_seen_at)


def export(person: Person) -> list[dict[str, Any]]:
    """Return the devices of a person, without their tokens."""
    return rows_of(sa.select(*COLUMNS).where(Device.user_id == person.id).order_by(Device.id))


def erase(person: Person) -> None:
    """Delete the devices of a person."""
    db.session.execute(sa.delete(Device).where(Device.user_id == person.id))


register(
    Part("devices", (Device.user_id,), export, erase, "Your devices are forgotten: they get no more push messages.")
)
