"""Devices and notifications by push for tests. Each function writes and commits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.accounts import User
from app.notifications import Content, Notification, NotificationDelivery, NotificationType, Targets, send
from app.push import Device, DeviceKind
from app.schools import default_school
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db, table_of
from tests.reservation_factories import make_user

_numbers = count(1)


def device(user: User, token: str | None = None, **values: Any) -> Device:
    """A device of a user."""
    given = {"kind": DeviceKind.TOKEN, "token": token or f"token-{next(_numbers)}"} | values
    row = Device(user_id=user.id, **given)
    db.session.add(row)
    db.session.commit()
    return row


def insert_devices(tokens: Iterable[tuple[int, str]]) -> None:
    """Many devices at once: user ids with tokens."""
    now = utc_now()
    rows = [
        {"user_id": user_id, "kind": DeviceKind.TOKEN, "token": token, "created_at": now, "last_seen_at": now}
        for user_id, token in tokens
    ]
    db.session.connection().execute(sa.insert(table_of(Device)), rows)
    db.session.commit()


def people(number: int) -> list[User]:
    """Users with one device each, whose tokens are `d0`, `d1` and so on."""
    users = [make_user() for _ in range(number)]
    for index, user in enumerate(users):
        device(user, f"d{index}")
    return users


def send_push(users: Sequence[User], **values: Any) -> Notification:
    """A notification by push to these users."""
    targets = Targets(users=tuple(user.id for user in users))
    given = {"title": "Snow", "body": "No school.", "type": NotificationType.GENERAL, "channels": ("push",)}
    notification = send(Content(targets=targets, **given | values), None, default_school().id)
    db.session.commit()
    return notification


def deliveries(session: Session, notification: Notification) -> list[NotificationDelivery]:
    """The deliveries of a notification by user."""
    session.rollback()
    query = sa.select(NotificationDelivery).where(NotificationDelivery.notification_id == notification.id)
    found = list(session.scalars(query.order_by(NotificationDelivery.user_id)))
    for each in found:
        session.expunge(each)
    session.rollback()
    return found


def outcomes(session: Session, notification: Notification) -> list[tuple[str, str | None, int]]:
    """The state, the reason and the number of attempts of each delivery, by user."""
    return [(each.state.value, each.reason, each.attempts) for each in deliveries(session, notification)]
