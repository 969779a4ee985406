"""The mails of notifications: one kind for each type, all with the same templates, and what becomes of them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.directory import Guardian, Student
from app.notifications import unsubscribing
from app.notifications.audiences import RESTRICTED, no_longer_contacted
from app.notifications.models import (
    DeliveryState,
    Notification,
    NotificationDelivery,
    NotificationRecipient,
    NotificationState,
    NotificationType,
)
from app.notifications.reasons import CANCELLED, SCHOOL_DISABLED
from app.schools import School
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db, table_of
from flask_belfry.db.columns import UtcDateTime
from flask_belfry.db.lists import among
from flask_belfry.mail import MailEntry, MailOutcome, Skip, mail_kind

# By the value of the mail's state; of `uncertain` see `_state_of`.
STATES: Mapping[str, DeliveryState] = {
    "sent": DeliveryState.DELIVERED,
    "deferred": DeliveryState.DEFERRED,
    "failed": DeliveryState.FAILED,
    "cancelled": DeliveryState.CANCELLED,
    "skipped": DeliveryState.SKIPPED,
    "suppressed": DeliveryState.SKIPPED,
    "bounced": DeliveryState.BOUNCED,
}
REASONS = {
    NotificationType.ACADEMIC: "the school sends you notifications about academic matters",
    NotificationType.BEHAVIOR: "the school sends you notifications about behavior",
    NotificationType.PAYMENT: "the school sends you notifications about payments",
    NotificationType.GENERAL: "the school sends you general notifications",
}
BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
MAIL_IS_OFF = "mail is switched off"

_DELIVERIES = table_of(NotificationDelivery)
_IS_DELIVERED = sa.bindparam("is_delivered", type_=sa.Boolean)
_RECORDED: Mapping[str, Any] = {
    "state": sa.bindparam("new_state"),
    "reason": sa.bindparam("why"),
    "attempts": sa.bindparam("tries"),
    "is_passing": sa.bindparam("passing"),
    "held_until": None,
    "delivered_at": sa.case((_IS_DELIVERED, sa.bindparam("now", type_=UtcDateTime)), else_=_DELIVERIES.c.delivered_at),
}
_RECORD = (
    sa.update(_DELIVERIES)
    .where(
        among(_DELIVERIES.c.id, "of"),
        # A cancelled one stays cancelled, unless its mail was on the way.
        sa.or_(_DELIVERIES.c.state != DeliveryState.CANCELLED, _IS_DELIVERED),
    )
    .values(_RECORDED)
)
# A digest leaves out what is cancelled.
_RECORD_DIGEST = (
    sa.update(_DELIVERIES)
    .where(among(_DELIVERIES.c.email_id, "of"), _DELIVERIES.c.state != DeliveryState.CANCELLED)
    .values(_RECORDED)
)


def kind_of_type(type_: NotificationType) -> str:
    """Return the kind of the mails of a type of notifications."""
    return f"{unsubscribing.KIND_PREFIX}{type_.value}"


def record_outcomes(session: Session, outcomes: Sequence[MailOutcome]) -> None:
    """Write what became of mails to their deliveries, in the transaction that writes it to the ledger."""
    _record(session, _RECORD, {outcome.context["delivery_id"]: outcome for outcome in outcomes})


def record_digests(session: Session, outcomes: Sequence[MailOutcome]) -> None:
    """Do the same for digests: the outcome of each is that of all its deliveries."""
    _record(session, _RECORD_DIGEST, {outcome.mail_id: outcome for outcome in outcomes})


def _record(session: Session, statement: sa.Update, outcomes: Mapping[str, MailOutcome]) -> None:
    """Write outcomes with one statement for all that are equal."""
    equal: defaultdict[tuple[DeliveryState, str | None, int, bool], list[str]] = defaultdict(list)
    for of, outcome in outcomes.items():
        if (state := _state_of(outcome)) is not None:
            reason = MAIL_IS_OFF if outcome.state.value == "suppressed" else outcome.error
            is_passing = state is DeliveryState.FAILED and outcome.is_temporary
            equal[state, reason, outcome.attempts, is_passing].append(of)
    for (state, reason, attempts, is_passing), ids in equal.items():
        values = {
            "of": ids,
            "new_state": state,
            "why": reason,
            "tries": attempts,
            "passing": is_passing,
            "is_delivered": state is DeliveryState.DELIVERED,
            "now": utc_now(),
        }
        session.connection().execute(statement, values)


def _state_of(outcome: MailOutcome) -> DeliveryState | None:
    if outcome.state.value == "uncertain":
        # Sent again, or held for a decision.
        return DeliveryState.FAILED if outcome.is_final else DeliveryState.DEFERRED
    return STATES.get(outcome.state.value)


def sample() -> dict[str, Any]:
    """Return a sample: a message about a student."""
    return {
        "title": "The choir sings on Friday",
        "paragraphs": ["The choir of class 7b sings on Friday at 15:00 in the hall.", "You are welcome to come."],
        "school": "Lovelace School",
        "students": ["Ada Byron"],
        "path": "/inbox",
    }


def describe(entries: Sequence[MailEntry]) -> Mapping[str, dict[str, Any] | Skip]:
    """Return the contexts, with three queries for all of them."""
    mails = {entry.context["delivery_id"]: entry.id for entry in entries}
    query = (
        sa.select(NotificationDelivery.id, NotificationDelivery.user_id, Notification, School.name, School.disabled_at)
        .join(NotificationDelivery.notification)
        .join(School, School.id == Notification.school_id)
        .where(among(NotificationDelivery.id, "ids"))
    )
    rows = db.session.execute(query, {"ids": list(mails)}).all()
    notification_ids, user_ids = [row.Notification.id for row in rows], {row.user_id for row in rows}
    students = students_of(notification_ids, user_ids)
    left_out = no_longer_contacted(db.session(), notification_ids, user_ids)
    contexts: dict[str, dict[str, Any] | Skip] = {}
    for row in rows:
        notification, recipient = row.Notification, (row.Notification.id, row.user_id)
        # Some mails are of no batch that is cancelled: those that replace push messages.
        if notification.state is NotificationState.CANCELLED:
            context = Skip(CANCELLED)
        elif row.disabled_at is not None:
            context = Skip(SCHOOL_DISABLED)
        elif recipient in left_out:
            context = Skip(RESTRICTED)
        else:
            context = {
                "title": notification.title,
                "paragraphs": paragraphs_of(notification.body),
                "school": row.name,
                "students": students[recipient],
                "path": "/inbox",
            }
        contexts[mails[row.id]] = context
    return contexts


def paragraphs_of(body: str) -> list[str]:
    """Return the paragraphs of a text, which blank lines separate; a paragraph may have several lines."""
    return [part for part in BLANK_LINES.split(body.replace("\r\n", "\n").strip()) if part]


def students_of(notification_ids: Collection[str], user_ids: Collection[int]) -> Mapping[tuple[str, int], list[str]]:
    """Return the names of the students about whom people get notifications, by notification and user."""
    query = (
        sa.select(NotificationRecipient.notification_id, NotificationRecipient.user_id, Student.name)
        .join(NotificationRecipient.student)
        .join(Guardian, sa.and_(Guardian.student_id == Student.id, Guardian.user_id == NotificationRecipient.user_id))
        .where(
            ~Guardian.is_restricted,
            among(NotificationRecipient.notification_id, "notifications"),
            among(NotificationRecipient.user_id, "users"),
            NotificationRecipient.left_out.is_(None),
        )
        .order_by(Student.name)
    )
    found: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    values = {"notifications": list(set(notification_ids)), "users": list(user_ids)}
    for notification_id, user_id, name in db.session.execute(query, values):
        found[notification_id, user_id].append(name)
    return found


for _type in NotificationType:
    mail_kind(
        kind_of_type(_type),
        sample=sample,
        reason=REASONS[_type],
        on_outcome=record_outcomes,
        queue="bulk",
        templates="notification",
        unsubscribe=unsubscribing.paths_of,
    )(describe)
