"""Reminders, mailed the day before an item is due and once when it is overdue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from app.work_items.emails import DUE
from app.work_items.models import WorkItem, WorkStatus
from app.work_items.recipients import Recipient, recipients_of
from flask_belfry.changes import Subject, subject_type
from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.db.tenancy import scoped
from flask_belfry.mail import MailRequest, send_mails

# After an outage, items that have been overdue for longer get no reminder: it would come too late to help.
OVERDUE_DAYS = 7
ITEMS_PER_BATCH = 1_000

_ITEMS = table_of(WorkItem).c


def remind_due(session: Session) -> int:
    """Enqueue the reminders of today, in the time zone TIMEZONE. The caller commits.

    The unique key of a mail holds the due date: running again enqueues no second mail, and an item whose due date
    changes gets a new reminder.

    Returns:
        number of mails.
    """
    today = utc_now().astimezone(ZoneInfo(current_app.config["TIMEZONE"])).date()
    is_tomorrow = _ITEMS.due_date == today + timedelta(days=1)
    is_past = sa.and_(_ITEMS.due_date < today, _ITEMS.due_date >= today - timedelta(days=OVERDUE_DAYS))
    return _remind(session, is_tomorrow, is_overdue=False) + _remind(session, is_past, is_overdue=True)


def _remind(session: Session, condition: sa.ColumnElement[bool], *, is_overdue: bool) -> int:
    asked, last_id = 0, 0
    columns = (_ITEMS.id, _ITEMS.due_date, _ITEMS.responsible_id, _ITEMS.reporter_id)
    query = sa.select(*columns).where(condition, _ITEMS.status != WorkStatus.DONE).order_by(_ITEMS.id)
    while rows := session.execute(scoped(query.where(_ITEMS.id > last_id).limit(ITEMS_PER_BATCH))).all():
        last_id = rows[-1].id
        recipients = recipients_of([row.id for row in rows])
        requests = [
            _request(row, recipient, is_overdue) for row in rows for recipient in _concerned(row, recipients[row.id])
        ]
        asked += len(send_mails(DUE, requests))
    return asked


def _concerned(row: Any, recipients: Sequence[Recipient]) -> list[Recipient]:
    # The responsible person; of an unassigned item, the reporter.
    return [recipient for recipient in recipients if recipient.user_id == (row.responsible_id or row.reporter_id)]


def _request(row: Any, recipient: Recipient, is_overdue: bool) -> MailRequest:
    word = "overdue" if is_overdue else "due"
    return MailRequest(
        to=[recipient.email],
        key=f"work-item-{word}/{row.id}/{row.due_date}/{recipient.user_id}",
        context={"due": row.due_date.isoformat(), "is_overdue": is_overdue, "reader": recipient.user_id},
        subject=Subject(subject_type(WorkItem), row.id),
    )
