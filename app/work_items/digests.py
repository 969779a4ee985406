"""Mails about changes of status: the first is sent immediately, those that follow soon are collected into a digest.

A change is mailed immediately unless a mail about the same item was enqueued less than WORK_ITEM_GATHER_SECONDS ago,
or earlier changes are not reported yet. Otherwise a job reports it after that time, in one digest with every change
until the job runs, however late that is. A change and the digest job lock the row of the item, so no change is lost
between two mails. Changes are compared by their numbers, and times by the clock of the database: the clocks of the
hosts differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from app.work_items.models import DigestEntry, WorkItem
from app.work_items.recipients import IDS_PER_QUERY, Recipient, recipients_of
from flask_belfry.changes import Change, StatusChange, Subject, current_session, subject_of, subject_type
from flask_belfry.db import insert_into, table_of
from flask_belfry.db.columns import database_now
from flask_belfry.mail import MailRequest, send_mails
from flask_belfry.outbox import JobRequest, enqueue_many

DIGEST_JOB = "work_items.tell_gathered"
MAIL = "work-item-status"

_ENTRIES = table_of(DigestEntry)
_CHANGES = table_of(StatusChange)
_OF_ITEMS = sa.and_(
    StatusChange.subject_type == subject_type(WorkItem),
    StatusChange.field == WorkItem.status.key,
    StatusChange.number > DigestEntry.told_number,
)
# Includes the change that the listener is called with: it is recorded already.
_UNREPORTED = (
    sa.select(sa.func.count())
    .where(_OF_ITEMS, StatusChange.subject_id == sa.cast(WorkItem.id, sa.String))
    .correlate(WorkItem, DigestEntry)
    .scalar_subquery()
)
_FACTS = (
    sa.select(
        WorkItem.id,
        WorkItem.priority,
        DigestEntry.gather_until,
        sa.or_(DigestEntry.gather_until > database_now(), _UNREPORTED > 1).label("must_wait"),
    )
    .outerjoin(DigestEntry, DigestEntry.item_id == WorkItem.id)
    .where(WorkItem.id.in_(sa.bindparam("ids", expanding=True)))
)


class Reported(NamedTuple):
    """The last change of an item that has been reported, or that needs no mail."""

    item_id: int
    change_id: str
    at: datetime


def notify(changes: Sequence[Change]) -> None:
    """Enqueue the mails of changes of status, or their digest jobs, in the transaction of the changes."""
    facts = _facts([change.subject.id for change in changes])
    immediate, later = [], []
    for change in changes:
        (later if facts[change.subject.id].must_wait else immediate).append(change)
    if immediate:
        recipients = recipients_of([change.subject.id for change in immediate])
        mails = {change.id: _mails_of_change(change, facts, recipients) for change in immediate}
        for is_mailed in (True, False):
            reported = [change for change in immediate if bool(mails[change.id]) is is_mailed]
            _write_entries([Reported(each.subject.id, each.id, each.at) for each in reported], is_mailed=is_mailed)
        send_mails(MAIL, [mail for of_change in mails.values() for mail in of_change])
    if later:
        enqueue_many(DIGEST_JOB, [_digest_job(change, facts[change.subject.id].gather_until) for change in later])


def send_digest(session: Session, item_id: int) -> int:
    """Enqueue the mails that report every change of an item's status since the last mail. The caller commits.

    Returns:
        number of mails; 0 if the item was deleted, or has the status that was reported last.
    """
    item = session.get(WorkItem, item_id, with_for_update=True, populate_existing=True)
    entry = session.get(DigestEntry, item_id, populate_existing=True)
    if item is None or entry is None:
        return 0
    subject = subject_of(item)
    query = (
        sa.select(StatusChange)
        .join(DigestEntry, DigestEntry.item_id == item_id)
        .where(_OF_ITEMS, StatusChange.subject_id == subject.id)
        .order_by(StatusChange.number)
    )
    changes = session.scalars(query).all()
    if not changes:
        return 0
    requests = []
    if changes[0].old != changes[-1].new:
        steps = [_step(change) for change in changes]
        recipients = recipients_of([item_id])[item_id]
        requests = [
            _mail(subject, changes[-1].id, steps, item.priority, recipient)
            for recipient in recipients
            if _wants(recipient, changes)
        ]
    _write_entries([Reported(item_id, changes[-1].id, changes[-1].at)], is_mailed=bool(requests))
    return len(send_mails(MAIL, requests))


def _facts(item_ids: Sequence[int]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    connection = current_session().connection()
    for begin in range(0, len(item_ids), IDS_PER_QUERY):
        rows = connection.execute(_FACTS, {"ids": item_ids[begin : begin + IDS_PER_QUERY]})
        found.update({row.id: row for row in rows})
    return found


def _write_entries(reported: Sequence[Reported], *, is_mailed: bool) -> None:
    """Store the last reported change of each item; if it was mailed, collect the changes that follow."""
    if not reported:
        return
    session, window = current_session(), _window_seconds() if is_mailed else 0.0
    number = sa.select(_CHANGES.c.number).where(_CHANGES.c.id == sa.bindparam("change_id", type_=_CHANGES.c.id.type))
    insert = insert_into(_ENTRIES, session.get_bind().dialect.name)
    statement = insert.values(told_number=number.scalar_subquery(), gather_until=database_now(window))
    columns = [DigestEntry.told_number, DigestEntry.told_until]
    if is_mailed:
        columns.append(DigestEntry.gather_until)
    written = {column.key: statement.excluded[column.key] for column in columns}
    rows = [{"item_id": each.item_id, "change_id": each.change_id, "told_until": each.at} for each in sorted(reported)]
    session.connection().execute(statement.on_conflict_do_update(index_elements=["item_id"], set_=written), rows)


def _mails_of_change(
    change: Change, facts: Mapping[int, Any], recipients: Mapping[int, Sequence[Recipient]]
) -> list[MailRequest]:
    item_id, steps = change.subject.id, [_step(change)]
    priority = facts[item_id].priority
    return [
        _mail(change.subject, change.id, steps, priority, recipient)
        for recipient in recipients.get(item_id, ())
        if _wants(recipient, [change])
    ]


def _wants(recipient: Recipient, changes: Sequence[Change | StatusChange]) -> bool:
    # People are notified of their own changes too, unless they have opted out of that.
    return not recipient.skips_own_changes or any(change.user_id != recipient.user_id for change in changes)


def _mail(
    subject: Subject, change_id: str, steps: Sequence[Mapping[str, Any]], priority: str, recipient: Recipient
) -> MailRequest:
    return MailRequest(
        to=[recipient.email],
        key=f"{MAIL}/{subject.id}/{change_id}/{recipient.user_id}",
        context={"way": steps, "priority": str(priority), "reader": recipient.user_id},
        subject=subject,
        change_id=change_id,
    )


def _step(change: Change | StatusChange) -> dict[str, Any]:
    return {"old": change.old, "new": change.new, "at": change.at.isoformat(), "by": change.user_id}


def _digest_job(change: Change, due: datetime) -> JobRequest:
    return JobRequest(
        {"item_id": change.subject.id},
        unique_key=f"{DIGEST_JOB}/{change.subject.id}",
        scheduled_at=due,
        subject=change.subject,
        change_id=change.id,
    )


def _window_seconds() -> float:
    # JOBS_EAGER is for scripts: a delayed job might never run.
    return 0.0 if current_app.config["JOBS_EAGER"] else current_app.config["WORK_ITEM_GATHER_SECONDS"]
