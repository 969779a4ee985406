"""The routes of the pages of notifications, and what another school has of them."""

from __future__ import annotations

from datetime import timedelta

from app.accounts import User
from app.notifications import (
    DeliveryState,
    NotificationChannel,
    NotificationDelivery,
    Targets,
    schedule,
    send,
)
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from tests.notification_factories import content
from tests.school_factories import guardian, school_class, student
from tests.tenancy import EVERYBODY, STAFF, USER, Route, many, one

NOTIFICATION, SCHEDULED = "/notifications/{notification}", "/notifications/scheduled/{scheduled_notification}"
FORM = {"title": "Ours", "body": "Ours", "type": "general", "channels": "in_app", "when": "now"}
THEIRS = {"classes": "{school_class}", "students": "{student_number}"}

ROUTES: dict[tuple[str, str], Route] = {
    ("notifications.list_", "GET"): many(STAFF, "/notifications", "/notifications?type=general&state=sending"),
    ("notifications.list_live", "GET"): many(STAFF, "/notifications/live"),
    ("notifications.new", "GET"): many(STAFF, "/notifications/new"),
    ("notifications.new", "POST"): Route(STAFF, ("/notifications/new",), {**FORM, **THEIRS}, 422),
    ("notifications.show_audience", "POST"): Route(STAFF, ("/notifications/audience",), {"classes": "{school_class}"}),
    ("notifications.preview", "POST"): many(STAFF, "/notifications/preview"),
    ("notifications.find", "GET"): many(
        STAFF, "/notifications/find?kind=students&text={student_number}", "/notifications/find?kind=people&text=zara"
    ),
    ("notifications.detail", "GET"): one(STAFF, NOTIFICATION),
    ("notifications.detail_live", "GET"): one(STAFF, f"{NOTIFICATION}/live?tab=not-reached"),
    ("notifications.cancel", "POST"): one(STAFF, f"{NOTIFICATION}/cancel"),
    ("notifications.retry", "POST"): one(STAFF, f"{NOTIFICATION}/retry"),
    ("notifications.scheduled", "GET"): many(STAFF, "/notifications/scheduled"),
    ("notifications.edit_scheduled", "GET"): one(STAFF, f"{SCHEDULED}/edit"),
    ("notifications.edit_scheduled", "POST"): one(STAFF, f"{SCHEDULED}/edit", **FORM),
    ("notifications.cancel_scheduled", "POST"): one(STAFF, f"{SCHEDULED}/cancel"),
    # One's own. The bell is asked for until it is known that the session has ended.
    ("notification_inbox.list_", "GET"): many(USER, "/inbox"),
    ("notification_inbox.show", "GET"): one(USER, "/inbox/{delivery}"),
    ("notification_inbox.read", "POST"): one(USER, "/inbox/{delivery}/read"),
    ("notification_inbox.read_all", "POST"): Route(USER, ("/inbox/read",), {}, 303),
    ("notification_inbox.bell", "GET"): many(EVERYBODY, "/inbox/bell"),
}

UNSCOPED = (
    # The guardians of the students of the school.
    r"SELECT .* FROM guardians JOIN students ON students\.id = guardians\.student_id WHERE students\.school_id = \?",
    # The export of a user's own data.
    r"SELECT .* FROM notification_deliveries JOIN notifications ON \S+ = \S+ WHERE \S+\.user_id = \? ORDER BY",
)


def make_rows(user: User) -> dict[str, str]:
    """A notification about a student of a user, which waits for its job and is in the inbox, and a scheduled one."""
    of_class = school_class(school_id=user.school_id, name="Zarathustras other class")
    of = student(of_class, name="Zarathustras other child", number=f"Z-{user.id}")
    guardian(of, user)
    targets = Targets(classes=(of_class.id,))
    row = send(content(targets, title="Zarathustras news"), None, user.school_id)
    local_time = (utc_now() + timedelta(days=2)).replace(tzinfo=None, second=0, microsecond=0)
    scheduled = schedule(content(targets, title="Zarathustras plan"), local_time, None, user.school_id)
    delivery = NotificationDelivery(
        notification_id=row.id,
        school_id=user.school_id,
        user_id=user.id,
        channel=NotificationChannel.IN_APP,
        state=DeliveryState.DELIVERED,
    )
    db.session.add(delivery)
    db.session.commit()
    return {
        "notification": row.id,
        "scheduled_notification": scheduled.id,
        "delivery": delivery.id,
        "school_class": str(of_class.id),
        "student_number": of.number,
    }
