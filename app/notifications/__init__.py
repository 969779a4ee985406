"""Notifications of a school to people: by mail, push and in the app."""

from __future__ import annotations

from flask import Flask

from app.notifications import (
    delivering,
    digest_emails,
    digests,
    emails,
    hooks,
    personal,
    preferences,
    push_delivery,
    rules,
)
from app.notifications.audiences import Audience, audience
from app.notifications.content import Content, Targets, content_problems, target_problems
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
    ScheduledState,
)
from app.notifications.queries import (
    Filters,
    count_recipients,
    counts,
    get,
    inbox,
    inbox_entry,
    left_out,
    mark_all_read,
    mark_read,
    page,
    page_deliveries,
    unreached_students,
    unread_count,
)
from app.notifications.scheduling import (
    cancel_scheduled,
    get_scheduled,
    page_scheduled,
    reschedule,
    schedule,
    send_due,
    sweep_scheduled,
)
from app.notifications.services import cancel, retry_failed, send
from flask_belfry.core.commands import add_lazy_command
from flask_belfry.core.presentation import register_subject

__all__ = [
    "Audience",
    "Content",
    "DeliveryState",
    "Filters",
    "Notification",
    "NotificationChannel",
    "NotificationDelivery",
    "NotificationPreference",
    "NotificationRecipient",
    "NotificationSettings",
    "NotificationState",
    "NotificationType",
    "ScheduledNotification",
    "ScheduledState",
    "Targets",
    "audience",
    "cancel",
    "cancel_scheduled",
    "content_problems",
    "count_recipients",
    "counts",
    "delivering",
    "digest_emails",
    "digests",
    "emails",
    "get",
    "get_scheduled",
    "hooks",
    "inbox",
    "inbox_entry",
    "init_app",
    "left_out",
    "mark_all_read",
    "mark_read",
    "page",
    "page_deliveries",
    "page_scheduled",
    "personal",
    "preferences",
    "push_delivery",
    "reschedule",
    "retry_failed",
    "schedule",
    "send",
    "send_due",
    "sweep_scheduled",
    "target_problems",
    "unreached_students",
    "unread_count",
]

# Importing the slice declares its permissions and its mails.
rules.declare()


def init_app(app: Flask) -> None:
    """Add the commands, and let jobs link to the pages of notifications, which `app.notifications.web` adds."""
    register_subject(app, "notification", "notifications.detail", "notification_id")
    register_subject(app, "scheduled_notification", "notifications.edit_scheduled", "scheduled_id")
    add_lazy_command(app, "notifications", "app.notifications.cli:notifications")
