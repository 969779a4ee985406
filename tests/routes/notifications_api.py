"""The endpoints of notifications, and what another school has of them."""

from __future__ import annotations

from datetime import timedelta

from app.accounts import User
from app.notifications import (
    DeliveryState,
    Notification,
    NotificationChannel,
    NotificationDelivery,
    NotificationRecipient,
    NotificationState,
    NotificationType,
    ScheduledNotification,
    ScheduledState,
)
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.db.columns import new_id
from tests.tenancy import STAFF, USER, Route, many, one

API, SCHEDULED = "/api/v1/notifications", "/api/v1/scheduled-notifications"
CONTENT = {"title": "Ours", "body": "now", "type": "general", "targets": {"everyone": True}, "school_id": "{school}"}

ROUTES: dict[tuple[str, str], Route] = {
    (f"api_notifications.{name}", method): route
    for (name, method), route in {
        ("list_notifications", "GET"): many(STAFF, f"{API}?limit=100", f"{API}?text={{name}}", f"{API}?type=general"),
        ("send_notification", "POST"): Route(STAFF, (API,), CONTENT, 403),
        ("send_in_bulk", "POST"): Route(STAFF, (f"{API}/bulk",), CONTENT, 403),
        ("preview_notification", "POST"): Route(STAFF, (f"{API}/preview",), CONTENT, 403),
        ("get_notification", "GET"): one(STAFF, f"{API}/{{notification}}"),
        ("list_deliveries", "GET"): one(STAFF, f"{API}/{{notification}}/deliveries"),
        ("list_unreached", "GET"): one(STAFF, f"{API}/{{notification}}/unreached"),
        ("cancel_notification", "POST"): one(STAFF, f"{API}/{{notification}}/cancel"),
        ("retry_notification", "POST"): one(STAFF, f"{API}/{{notification}}/retry"),
        ("list_scheduled", "GET"): many(STAFF, f"{SCHEDULED}?limit=100", f"{SCHEDULED}?state=scheduled"),
        ("schedule_notification", "POST"): Route(
            STAFF, (SCHEDULED,), {**CONTENT, "local_time": "2027-01-15T07:30"}, 403
        ),
        ("get_scheduled", "GET"): one(STAFF, f"{SCHEDULED}/{{scheduled}}"),
        ("change_scheduled", "PATCH"): one(STAFF, f"{SCHEDULED}/{{scheduled}}", title="Ours now"),
        ("cancel_scheduled", "DELETE"): one(STAFF, f"{SCHEDULED}/{{scheduled}}"),
        ("list_inbox", "GET"): many(USER, "/api/v1/inbox?limit=100", "/api/v1/inbox?unread=true"),
        ("mark_read", "POST"): one(USER, "/api/v1/inbox/{delivery}/read"),
        ("mark_all_read", "POST"): Route(USER, ("/api/v1/inbox/read",), {}, 200),
    }.items()
}

# Statements that do not ask for a school: what is kept of oneself, by one's own id.
UNSCOPED = (
    r"SELECT .* FROM notification_deliveries JOIN notifications .* WHERE notification_deliveries\.user_id = \? ORDER",
    r"SELECT .* FROM (scheduled_)?notifications WHERE (scheduled_)?notifications\.sender_id = \?",
)


def make_rows(user: User) -> dict[str, int]:
    """A notification to a user, and a scheduled one."""
    content = {
        "title": "Zarathustras title",
        "body": "Zarathustras body",
        "type": NotificationType.GENERAL,
        "data": {},
        "targets": {"everyone": True},
        "channels": ["in_app"],
        "school_id": user.school_id,
        "sender": user,
    }
    now = utc_now()
    sent = Notification(
        **content, id=new_id(), state=NotificationState.FINISHED, batch_id=new_id(), job_id=new_id(), finished_at=now
    )
    scheduled = ScheduledNotification(
        **content,
        id=new_id(),
        state=ScheduledState.SCHEDULED,
        local_time=(now + timedelta(days=1)).replace(tzinfo=None),
        time_zone="UTC",
        send_at=now + timedelta(days=1),
    )
    of_user = {"notification": sent, "user": user, "school_id": user.school_id}
    delivery = NotificationDelivery(
        **of_user,
        id=new_id(),
        channel=NotificationChannel.IN_APP,
        state=DeliveryState.DELIVERED,
        delivered_at=now,
    )
    recipient = NotificationRecipient(notification_id=sent.id, user=user, school_id=user.school_id)
    db.session.add_all([sent, scheduled])
    db.session.flush()
    db.session.add_all([delivery, recipient])
    db.session.commit()
    return {
        "notification": sent.id,
        "scheduled": scheduled.id,
        "delivery": delivery.id,
        "school": user.school_id,
    }  # pyright: ignore[reportReturnType] - ids of UUIDs are text
