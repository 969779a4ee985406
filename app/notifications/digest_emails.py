"""The mail of the daily digest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.notifications.audiences import RESTRICTED, no_longer_contacted
from app.notifications.emails import paragraphs_of, record_digests, students_of
from app.notifications.models import DeliveryState, Notification, NotificationDelivery
from app.notifications.preferences import clocks_of
from app.notifications.reasons import CANCELLED, EXPIRED, SCHOOL_DISABLED
from app.notifications.unsubscribing import DIGEST, paths_of_digests
from app.schools import School
from flask_belfry.core.clock import utc_now
from flask_belfry.core.presentation import localtime
from flask_belfry.db import db, table_of
from flask_belfry.db.lists import among
from flask_belfry.mail import MailEntry, Skip, mail_kind

# More of them are only counted: mail programs cut off long mails.
MAX_SHOWN = 20

_DELIVERIES_OF = (
    sa.select(
        NotificationDelivery.id,
        NotificationDelivery.email_id,
        NotificationDelivery.user_id,
        NotificationDelivery.state,
        Notification,
        School.name,
        School.disabled_at,
    )
    .join(NotificationDelivery.notification)
    .join(School, School.id == Notification.school_id)
    .where(among(NotificationDelivery.email_id, "ids"))
    .order_by(NotificationDelivery.id)
)
_DELIVERIES = table_of(NotificationDelivery)
_LEAVE_OUT = (
    sa.update(_DELIVERIES)
    .where(_DELIVERIES.c.id == sa.bindparam("of"), _DELIVERIES.c.state != DeliveryState.CANCELLED)
    .values(state=DeliveryState.SKIPPED, reason=sa.bindparam("why"), email_id=None)
)


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


def leave_out(session: Session, entries: Sequence[MailEntry]) -> None:
    """Skip the deliveries that are not in the digests which are about to be sent: the outcome of a digest is not theirs
    any more."""
    reasons = _reasons_to_leave_out(session, _load(session, entries))
    if reasons:
        session.connection().execute(_LEAVE_OUT, [{"of": id, "why": reason} for id, reason in reasons.items()])


@mail_kind(
    DIGEST,
    sample=sample,
    reason="you chose a daily digest of these notifications",
    on_sending=leave_out,
    on_outcome=record_digests,
    queue="bulk",
    unsubscribe=paths_of_digests,
)
def describe(entries: Sequence[MailEntry]) -> Mapping[str, dict[str, Any] | Skip]:
    """For a person: what was sent since the last digest. No mail is sent if all of it is left out."""
    rows = _load(db.session(), entries)
    reasons = _reasons_to_leave_out(db.session(), rows)
    students = students_of([row.Notification.id for row in rows], {row.user_id for row in rows})
    clocks = clocks_of(db.session(), {row.user_id for row in rows})

    def item(row: Any) -> dict[str, Any]:
        return {
            "title": row.Notification.title,
            "paragraphs": paragraphs_of(row.Notification.body),
            "students": students[row.Notification.id, row.user_id],
            "sent_at": localtime(row.Notification.created_at, clocks[row.user_id].zone),
        }

    def context(of_mail: Sequence[Any]) -> dict[str, Any] | Skip:
        shown = [row for row in of_mail if row.id not in reasons]
        if not shown:
            return Skip(reasons[of_mail[-1].id])
        return {
            "items": [item(row) for row in shown[:MAX_SHOWN]],
            "count": len(shown),
            "school": shown[0].name,
            "path": "/inbox",
        }

    by_mail: defaultdict[str, list[Any]] = defaultdict(list)
    for row in rows:
        by_mail[row.email_id].append(row)
    return {mail_id: context(of_mail) for mail_id, of_mail in by_mail.items()}


def _load(session: Session, entries: Sequence[MailEntry]) -> Sequence[Any]:
    return session.execute(_DELIVERIES_OF, {"ids": [entry.id for entry in entries]}).all()


def _reasons_to_leave_out(session: Session, rows: Sequence[Any]) -> Mapping[str, str]:
    """Return why some deliveries are not in their digest, by id."""
    now = utc_now()
    left_out = no_longer_contacted(session, [row.Notification.id for row in rows], {row.user_id for row in rows})
    reasons: dict[str, str] = {}
    for row in rows:
        notification = row.Notification
        if row.state is DeliveryState.CANCELLED:
            reasons[row.id] = CANCELLED
        elif row.disabled_at is not None:
            reasons[row.id] = SCHOOL_DISABLED
        elif notification.expires_at is not None and notification.expires_at <= now:
            reasons[row.id] = EXPIRED
        elif (notification.id, row.user_id) in left_out:
            reasons[row.id] = RESTRICTED
    return reasons
