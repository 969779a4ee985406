"""Telling people of changes of status: the first at once, what follows soon after gathered into one mail.

A change is told at once unless a mail about the same item was asked for less than WORK_ITEM_GATHER_SECONDS ago. Then a
job tells it when that time is over, together with all others that have come until it runs, however late that is: the
whole way. Every change holds its item's row, and so does the job: none slips between two mails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.columns import utc_now
from app.extensions import table_of
from app.mail import MailRequest, send_mails
from app.outbox import (
    LIVE,
    Change,
    JobRecord,
    JobRequest,
    StatusChange,
    Subject,
    current_session,
    enqueue_many,
    subject_of,
)
from app.work_items.models import WorkItem, WorkItemNotice
from app.work_items.people import IDS_PER_QUERY, Person, people_of

TELL = "work_items.tell_gathered"
MAIL = "work-item-status"

_NOTICES = table_of(WorkItemNotice)
_GATHERS = sa.exists().where(
    JobRecord.unique_key == sa.literal(f"{TELL}/") + sa.cast(WorkItem.id, sa.String), JobRecord.state.in_(LIVE)
)
_FACTS = (
    sa.select(WorkItem.id, WorkItem.priority, WorkItemNotice.gather_until, _GATHERS.label("is_gathering"))
    .outerjoin(WorkItemNotice, WorkItemNotice.item_id == WorkItem.id)
    .where(WorkItem.id.in_(sa.bindparam("ids", expanding=True)))
)


def tell(changes: Sequence[Change]) -> None:
    """Called with changes of status, in their transaction: asks for the mails, or for the jobs that gather."""
    facts = _facts([int(change.subject.id) for change in changes])
    at_once, later = [], []
    for change in changes:
        known = facts[int(change.subject.id)]
        is_free = not known.is_gathering and (known.gather_until is None or known.gather_until <= change.at)
        (at_once if is_free else later).append(change)
    if at_once:
        _note({int(change.subject.id): change.at for change in at_once})
        people = people_of([int(change.subject.id) for change in at_once])
        send_mails(MAIL, [mail for change in at_once for mail in _mails_of_change(change, facts, people)])
    if later:
        enqueue_many(TELL, [_gathering(change, facts[int(change.subject.id)].gather_until) for change in later])


def tell_gathered(session: Session, item_id: int) -> int:
    """Asks for the mails that tell what has happened to an item's status since the last ones. The caller commits.

    Returns:
        how many mails; none when the item is gone, or stands where people know it to stand.
    """
    item = session.get(WorkItem, item_id, with_for_update=True, populate_existing=True)
    notice = session.get(WorkItemNotice, item_id, populate_existing=True)
    if item is None or notice is None:
        return 0
    subject = subject_of(item)
    query = (
        sa.select(StatusChange)
        .where(
            StatusChange.subject_type == subject.type,
            StatusChange.subject_id == subject.id,
            StatusChange.field == WorkItem.status.key,
            StatusChange.at > notice.told_until,
        )
        .order_by(StatusChange.at, StatusChange.id)
    )
    changes = session.scalars(query).all()
    if not changes:
        return 0
    notice.told_until, notice.gather_until = changes[-1].at, utc_now() + _window()
    if changes[0].old == changes[-1].new:
        return 0
    way = [_step(change) for change in changes]
    people = people_of([item_id])[item_id]
    requests = [
        _mail(subject, changes[-1].id, way, item.priority, person) for person in people if _wants(person, changes)
    ]
    return len(send_mails(MAIL, requests))


def _facts(item_ids: Sequence[int]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    connection = current_session().connection()
    for begin in range(0, len(item_ids), IDS_PER_QUERY):
        rows = connection.execute(_FACTS, {"ids": item_ids[begin : begin + IDS_PER_QUERY]})
        found.update({row.id: row for row in rows})
    return found


def _note(told: Mapping[int, datetime]) -> None:
    """Remembers until when each of these items is told; a mail for them is being asked for."""
    session = current_session()
    rows = [
        {"item_id": item_id, "told_until": at, "gather_until": at + _window()} for item_id, at in sorted(told.items())
    ]
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(_NOTICES)
    written = {name: statement.excluded[name] for name in ("told_until", "gather_until")}
    session.connection().execute(statement.on_conflict_do_update(index_elements=["item_id"], set_=written), rows)


def _mails_of_change(
    change: Change, facts: Mapping[int, Any], people: Mapping[int, Sequence[Person]]
) -> list[MailRequest]:
    item_id, way = int(change.subject.id), [_step(change)]
    priority = facts[item_id].priority
    return [
        _mail(change.subject, change.id, way, priority, person)
        for person in people.get(item_id, ())
        if _wants(person, [change])
    ]


def _wants(person: Person, changes: Sequence[Change | StatusChange]) -> bool:
    """Whether somebody is to hear of changes: also of their own, unless they have said otherwise."""
    return not person.skips_own_changes or any(change.user_id != person.user_id for change in changes)


def _mail(
    subject: Subject, change_id: str, way: Sequence[Mapping[str, Any]], priority: str, person: Person
) -> MailRequest:
    return MailRequest(
        to=[person.email],
        key=f"{MAIL}/{subject.id}/{change_id}/{person.user_id}",
        context={"way": way, "priority": str(priority), "reader": person.user_id},
        subject=subject,
        change_id=change_id,
    )


def _step(change: Change | StatusChange) -> dict[str, Any]:
    return {"old": change.old, "new": change.new, "at": change.at.isoformat(), "by": change.user_id}


def _gathering(change: Change, due: datetime) -> JobRequest:
    return JobRequest(
        {"item_id": int(change.subject.id)},
        unique_key=f"{TELL}/{change.subject.id}",
        scheduled_at=due,
        subject=change.subject,
        change_id=change.id,
    )


def _window() -> timedelta:
    return timedelta(seconds=current_app.config["WORK_ITEM_GATHER_SECONDS"])
