"""Listeners of reservations, which enqueue mails. They run within the flush: Core only, set-based."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from flask import current_app

from app.accounts import User
from app.audit import record_creations, watch_deletions
from app.reservations.models import Reservation, ReservationStatus, Resource
from flask_belfry.changes import Change, Creation, current_session, on_change, on_created, record_changes
from flask_belfry.mail import MailRequest, send_mails

# SQLite accepts at most 32,766 bound values in a statement; a bulk insert may have more ids.
IDS_PER_QUERY = 10_000
# Built once: every change of a status runs it.
_EMAILS = (
    sa.select(Reservation.id, User.email)
    .join(Reservation.customer)
    .where(Reservation.id.in_(sa.bindparam("ids", expanding=True)))
)


@on_created(Reservation)
def notify_desk(creations: Sequence[Creation]) -> None:
    """Called with new reservations, which staff confirm or cancel."""
    desk = current_app.config["ADMIN_EMAIL"]
    if desk is None:
        return
    send_mails(
        "reservation-new",
        [
            MailRequest(
                to=[desk],
                key=f"reservation-new/{creation.subject.id}",
                context={"at": creation.at.isoformat(), "by": creation.user_id},
                subject=creation.subject,
            )
            for creation in creations
        ],
    )


@on_change(Reservation.status, to=(ReservationStatus.CONFIRMED, ReservationStatus.CANCELLED))
def notify_customers(changes: Sequence[Change]) -> None:
    """Called with confirmed and cancelled reservations. Completed ones need no mail."""
    emails = _emails_of([change.subject.id for change in changes])
    send_mails("reservation-status", [_status_mail(change, emails.get(change.subject.id)) for change in changes])


# The audit log is the only record of a deletion.
watch_deletions(Reservation, Resource)
record_creations(Resource)

# Also shown in the history, without mails.
record_changes(
    Reservation.start_time,
    Reservation.duration_minutes,
    Reservation.resource_id,
    Reservation.party_size,
    Reservation.note,
)


def _status_mail(change: Change, email: str | None) -> MailRequest:
    return MailRequest(
        to=[email],
        key=f"reservation-status/{change.subject.id}/{change.new}/{change.id}",
        context={"old": change.old, "new": change.new, "at": change.at.isoformat(), "by": change.user_id},
        subject=change.subject,
        change_id=change.id,
    )


def _emails_of(reservation_ids: Sequence[int]) -> dict[int, str]:
    """Return the email addresses of customers, by reservation id."""
    found: dict[int, str] = {}
    for begin in range(0, len(reservation_ids), IDS_PER_QUERY):
        ids = reservation_ids[begin : begin + IDS_PER_QUERY]
        # On the connection: the session is in the middle of a flush.
        rows = current_session().connection().execute(_EMAILS, {"ids": ids})
        found.update({row.id: row.email for row in rows})
    return found
