"""Notifications for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from app.accounts import User
from app.notifications import (
    Content,
    Notification,
    NotificationDelivery,
    NotificationRecipient,
    NotificationType,
    Targets,
    send,
)
from app.schools import default_school
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope


def content(targets: Targets | None = None, **values: Any) -> Content:
    """What a notification to everyone says, by mail and in the app."""
    defaults = {
        "title": "Snow day",
        "body": "The school is closed tomorrow.",
        "type": NotificationType.GENERAL,
        "targets": targets or Targets(everyone=True),
        "channels": ("mail", "in_app"),
    }
    return Content(**defaults | values)


def sent(targets: Targets | None = None, *, school_id: int | None = None, **values: Any) -> Notification:
    """A notification that the system has sent, by default of the school of the installation; committed."""
    notification = send(content(targets, **values), None, school_id or default_school().id)
    db.session.commit()
    return notification


def deliveries(notification_id: str) -> dict[tuple[int, str], tuple[str, str | None]]:
    """The state and the reason of each delivery of a notification, by user and channel."""
    db.session.rollback()
    with use_scope(ALL_TENANTS):
        query = sa.select(NotificationDelivery).where(NotificationDelivery.notification_id == notification_id)
        rows = db.session.scalars(query.execution_options(populate_existing=True)).all()
    found = {(row.user_id, row.channel.value): (row.state.value, row.reason) for row in rows}
    db.session.rollback()
    return found


def recipients(notification_id: str) -> set[tuple[int, int | None, str | None]]:
    """The users, students and reasons of the recipients of a notification."""
    columns = NotificationRecipient.user_id, NotificationRecipient.student_id, NotificationRecipient.left_out
    query = sa.select(*columns).where(NotificationRecipient.notification_id == notification_id)
    found = [tuple(row) for row in db.session.execute(query)]
    assert len(found) == len(set(found))
    db.session.rollback()
    return set(found)


def insert_members(number: int, school_id: int | None = None, domains: Sequence[str] = ("example.org",)) -> list[int]:
    """Many members at once, past every hook; their emails are of these domains in turn."""
    school_id, now = school_id or default_school().id, utc_now()
    begin = db.session.scalar(sa.select(sa.func.coalesce(sa.func.max(User.id), 0))) or 0
    names = [f"member{begin + count}" for count in range(1, number + 1)]
    rows = [
        {
            "school_id": school_id,
            "username": name,
            "username_key": name,
            "email": f"{name}@{domains[index % len(domains)]}",
            "confirmed_at": now,
            "name": name.title(),
            "password_hash": "unusable",
        }
        for index, name in enumerate(names)
    ]
    db.session.connection().execute(sa.insert(sa.inspect(User).local_table), rows)
    db.session.commit()
    return list(db.session.scalars(sa.select(User.id).where(User.username.in_(names)).order_by(User.id)))
