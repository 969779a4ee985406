"""Telling people of changes of status: the first at once, what follows soon after gathered into one mail.

A change is told at once unless a mail about the same item was asked for less than WORK_ITEM_GATHER_SECONDS ago, or
changes before it wait to be told. Then a job tells it when that time is over, together with all others that have come
until it runs, however late that is: the whole way. Every change holds its item's row, and so does the job: none slips
between two mails. What is told goes by the numbers of the changes, and the time by the database's clock: those of the
hosts differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.work_items.models import WorkItem, WorkItemNotice
from app.work_items.people import IDS_PER_QUERY, Person, people_of
from flask_belfry.changes import Change, StatusChange, Subject, current_session, subject_of, subject_type
from flask_belfry.db import table_of
from flask_belfry.db.columns import database_now
from flask_belfry.mail import MailRequest, send_mails
from flask_belfry.outbox import JobRequest, enqueue_many

TELL = "work_items.tell_gathered"
MAIL = "work-item-status"

_NOTICES = table_of(WorkItemNotice)
_CHANGES = table_of(StatusChange)
_OF_ITEMS = sa.and_(
    StatusChange.subject_type == subject_type(WorkItem),
    StatusChange.field == WorkItem.status.key,
    StatusChange.number > WorkItemNotice.told_number,
)
# The change that a hook is called with is recorded already, and one of them.
_UNTOLD = (
    sa.select(sa.func.count())
    .where(_OF_ITEMS, StatusChange.subject_id == sa.cast(WorkItem.id, sa.String))
    .correlate(WorkItem, WorkItemNotice)
    .scalar_subquery()
)
_FACTS = (
    sa.select(
        WorkItem.id,
        WorkItem.priority,
        WorkItemNotice.gather_until,
        sa.or_(WorkItemNotice.gather_until > database_now(), _UNTOLD > 1).label("must_wait"),
    )
    .outerjoin(WorkItemNotice, WorkItemNotice.item_id == WorkItem.id)
    .where(WorkItem.id.in_(sa.bindparam("ids", expanding=True)))
)


class Told(NamedTuple):
    """The last change of an item that people are told of."""

    item_id: int
    change_id: str
    at: datetime


def tell(changes: Sequence[Change]) -> None:
    """Called with changes of status, in their transaction: asks for the mails, or for the jobs that gather."""
    facts = _facts([change.subject.id for change in changes])
    at_once, later = [], []
    for change in changes:
        (later if facts[change.subject.id].must_wait else at_once).append(change)
    if at_once:
        people = people_of([change.subject.id for change in at_once])
        mails = {change.id: _mails_of_change(change, facts, people) for change in at_once}
        for is_mailed in (True, False):
            told = [change for change in at_once if bool(mails[change.id]) is is_mailed]
            _note([Told(each.subject.id, each.id, each.at) for each in told], is_mailed=is_mailed)
        send_mails(MAIL, [mail for of_change in mails.values() for mail in of_change])
    if later:
        enqueue_many(TELL, [_gathering(change, facts[change.subject.id].gather_until) for change in later])


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
        .join(WorkItemNotice, WorkItemNotice.item_id == item_id)
        .where(_OF_ITEMS, StatusChange.subject_id == subject.id)
        .order_by(StatusChange.number)
    )
    changes = session.scalars(query).all()
    if not changes:
        return 0
    requests = []
    if changes[0].old != changes[-1].new:
        way = [_step(change) for change in changes]
        people = people_of([item_id])[item_id]
        requests = [
            _mail(subject, changes[-1].id, way, item.priority, person) for person in people if _wants(person, changes)
        ]
    _note([Told(item_id, changes[-1].id, changes[-1].at)], is_mailed=bool(requests))
    return len(send_mails(MAIL, requests))


def _facts(item_ids: Sequence[int]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    connection = current_session().connection()
    for begin in range(0, len(item_ids), IDS_PER_QUERY):
        rows = connection.execute(_FACTS, {"ids": item_ids[begin : begin + IDS_PER_QUERY]})
        found.update({row.id: row for row in rows})
    return found


def _note(told: Sequence[Told], *, is_mailed: bool) -> None:
    """Remembers the last change of each of these items that is told; if by a mail, what follows is gathered."""
    if not told:
        return
    session, window = current_session(), _window_seconds() if is_mailed else 0.0
    number = sa.select(_CHANGES.c.number).where(_CHANGES.c.id == sa.bindparam("change_id", type_=_CHANGES.c.id.type))
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(_NOTICES).values(told_number=number.scalar_subquery(), gather_until=database_now(window))
    columns = [WorkItemNotice.told_number, WorkItemNotice.told_until]
    if is_mailed:
        columns.append(WorkItemNotice.gather_until)
    written = {column.key: statement.excluded[column.key] for column in columns}
    rows = [{"item_id": each.item_id, "change_id": each.change_id, "told_until": each.at} for each in sorted(told)]
    session.connection().execute(statement.on_conflict_do_update(index_elements=["item_id"], set_=written), rows)


def _mails_of_change(
    change: Change, facts: Mapping[int, Any], people: Mapping[int, Sequence[Person]]
) -> list[MailRequest]:
    item_id, way = change.subject.id, [_step(change)]
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
        {"item_id": change.subject.id},
        unique_key=f"{TELL}/{change.subject.id}",
        scheduled_at=due,
        subject=change.subject,
        change_id=change.id,
    )


def _window_seconds() -> float:
    # JOBS_EAGER is for scripts: nobody may be there who runs what is due later.
    return 0.0 if current_app.config["JOBS_EAGER"] else current_app.config["WORK_ITEM_GATHER_SECONDS"]
