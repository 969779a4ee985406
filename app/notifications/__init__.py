"""Notifications of a school to people: by mail, push and in the app."""

from __future__ import annotations

from flask import Flask

from app.notifications.models import (
    DeliveryState,
    Notification,
    NotificationChannel,
    NotificationDelivery,
    NotificationPreference,
    NotificationRecipient,
    NotificationSettings,
    NotificationState,
    NotificationType,
    ScheduledNotification,
)

__all__ = [
    "DeliveryState",
    "Notification",
    "NotificationChannel",
    "NotificationDelivery",
    "NotificationPreference",
    "NotificationRecipient",
    "NotificationSettings",
    "NotificationState",
    "NotificationType",
    "ScheduledNotification",
    "init_app",
]


def init_app(app: Flask) -> None:
    """Add what the slice needs."""
