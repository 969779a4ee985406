"""Personal data in notifications: what a person was sent and chose."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.notifications.models import (
    Notification,
    NotificationDelivery,
    NotificationPreference,
    NotificationRecipient,
    NotificationSettings,
    ScheduledNotification,
)
from app.personal_data import Part, Person, register, rows_of
from flask_belfry.db import db


def export(person: Person) -> dict[str, Any]:
    """Return the notifications that a person was sent, by channel, those that the person sent, and the preferences."""
    received = (
        sa.select(
            Notification.id,
            Notification.title,
            Notification.body,
            Notification.type,
            NotificationDelivery.channel,
            NotificationDelivery.state,
            NotificationDelivery.created_at,
            NotificationDelivery.delivered_at,
            NotificationDelivery.read_at,
        )
        .join(NotificationDelivery.notification)
        .where(NotificationDelivery.user_id == person.id)
        .order_by(NotificationDelivery.id)
    )
    sent = sa.select(Notification.id, Notification.title, Notification.body, Notification.type, Notification.created_at)
    scheduled = sa.select(ScheduledNotification.id, ScheduledNotification.title, ScheduledNotification.send_at)
    preferences = sa.select(
        NotificationPreference.type, NotificationPreference.channel, NotificationPreference.frequency
    )
    hours = sa.select(
        sa.cast(NotificationSettings.quiet_from, sa.String), sa.cast(NotificationSettings.quiet_until, sa.String)
    )
    return {
        "received": rows_of(received),
        "sent": rows_of(sent.where(Notification.sender_id == person.id).order_by(Notification.id)),
        "scheduled": rows_of(scheduled.where(ScheduledNotification.sender_id == person.id)),
        "preferences": rows_of(preferences.where(NotificationPreference.user_id == person.id)),
        "quiet_hours": rows_of(hours.where(NotificationSettings.user_id == person.id)),
    }


def erase(person: Person) -> None:
    """Delete what the person was sent and chose. What the person sent is kept, without the sender."""
    for model in (NotificationDelivery, NotificationRecipient, NotificationPreference, NotificationSettings):
        db.session.execute(sa.delete(model).where(model.user_id == person.id))
    for model in (Notification, ScheduledNotification):
        db.session.execute(sa.update(model).where(model.sender_id == person.id).values(sender_id=None))


register(
    Part(
        "notifications",
        (
            NotificationDelivery.user_id,
            NotificationRecipient.user_id,
            NotificationPreference.user_id,
            NotificationSettings.user_id,
            Notification.sender_id,
            ScheduledNotification.sender_id,
        ),
        export,
        erase,
        "Your inbox and your preferences are deleted. Notifications that you sent are kept without your name. Those "
        "that you scheduled are still sent, in the name of the school.",
    )
)
