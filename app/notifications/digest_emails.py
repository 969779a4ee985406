"""The mail of the daily digest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.notifications.audiences import no_longer_contacted
from app.notifications.emails import paragraphs_of, record_digests, students_of
from app.notifications.models import DeliveryState, Notification, NotificationDelivery
from app.notifications.preferences import clocks_of
from app.notifications.unsubscribing import DIGEST, paths_of_digests
from app.schools import School
from flask_belfry.core.presentation import localtime
from flask_belfry.db import db
from flask_belfry.db.lists import among
from flask_belfry.mail import MailEntry, mail_kind

# More of them are only counted: mail programs cut off long mails.
MAX_SHOWN = 20


def sample() -> dict[str, Any]:
    """Return a sample: two notifications."""
    return {
        "items": [
            {
                "title": "The choir sings on Friday",
                "paragraphs": ["The choir of class 7b sings on Friday at 15:00 in the hall."],
                "students": ["Ada Byron"],
                "sent_at": "Mon 24 Nov 2025, 09:12",
            },
            {
                "title": "Lunch money",
                "paragraphs": ["The lunches of November are due."],
                "students": [],
                "sent_at": "Mon 24 Nov 2025, 13:40",
            },
        ],
        "count": 2,
        "school": "Lovelace School",
        "path": "/inbox",
    }


@mail_kind(
    DIGEST,
    sample=sample,
    reason="you chose a daily digest of these notifications",
    on_outcome=record_digests,
    queue="bulk",
    unsubscribe=paths_of_digests,
)
def describe(entries: Sequence[MailEntry]) -> Mapping[str, dict[str, Any] | None]:
    """For a person: what was sent since the last digest. No mail is sent if all of it was cancelled."""
    query = (
        sa.select(NotificationDelivery.email_id, NotificationDelivery.user_id, Notification, School.name)
        .join(NotificationDelivery.notification)
        .join(School, School.id == Notification.school_id)
        .where(
            among(NotificationDelivery.email_id, "ids"),
            NotificationDelivery.state != DeliveryState.CANCELLED,
            School.disabled_at.is_(None),
        )
        .order_by(NotificationDelivery.id)
    )
    rows = db.session.execute(query, {"ids": [entry.id for entry in entries]}).all()
    notification_ids, user_ids = [row.Notification.id for row in rows], {row.user_id for row in rows}
    left_out = no_longer_contacted(db.session(), notification_ids, user_ids)
    by_mail: defaultdict[str, list[Any]] = defaultdict(list)
    for row in rows:
        if (row.Notification.id, row.user_id) not in left_out:
            by_mail[row.email_id].append(row)
    students = students_of(notification_ids, user_ids)
    clocks = clocks_of(db.session(), user_ids)

    def item(row: Any) -> dict[str, Any]:
        return {
            "title": row.Notification.title,
            "paragraphs": paragraphs_of(row.Notification.body),
            "students": students[row.Notification.id, row.user_id],
            "sent_at": localtime(row.Notification.created_at, clocks[row.user_id].zone),
        }

    def context(of_mail: Sequence[Any]) -> dict[str, Any]:
        return {
            "items": [item(row) for row in of_mail[:MAX_SHOWN]],
            "count": len(of_mail),
            "school": of_mail[0].name,
            "path": "/inbox",
        }

    return {entry.id: context(by_mail[entry.id]) if entry.id in by_mail else None for entry in entries}
