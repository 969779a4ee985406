"""What work items keep of people: what they see to or asked for, and what they said."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.personal_data import Part, Person, exempt, register, rows_of
from app.work_items.models import WorkItem, WorkItemComment, WorkItemWatcher
from flask_belfry.db import db

COLUMNS = (
    WorkItem.id,
    WorkItem.kind,
    WorkItem.title,
    WorkItem.status,
    WorkItem.priority,
    WorkItem.created_at,
)
SAID = (WorkItemComment.item_id, WorkItemComment.text, WorkItemComment.created_at)


def export(person: Person) -> dict[str, Any]:
    """The person's items, by what they are to them, and what the person said."""
    of_them = {
        "responsible_for": WorkItem.responsible_id == person.id,
        "reported": WorkItem.reporter_id == person.id,
        "watched": WorkItem.id.in_(sa.select(WorkItemWatcher.item_id).where(WorkItemWatcher.user_id == person.id)),
    }
    items = {
        name: rows_of(sa.select(*COLUMNS).where(condition).order_by(WorkItem.id)) for name, condition in of_them.items()
    }
    comments = sa.select(*SAID).where(WorkItemComment.author_id == person.id).order_by(WorkItemComment.id)
    return {**items, "comments": rows_of(comments)}


def erase(person: Person) -> None:
    """Leaves their items to others, and takes back what they said."""
    for column in (WorkItem.responsible_id, WorkItem.reporter_id):
        db.session.execute(sa.update(WorkItem).where(column == person.id).values({column.key: None}))
    db.session.execute(sa.delete(WorkItemWatcher).where(WorkItemWatcher.user_id == person.id))
    db.session.execute(sa.delete(WorkItemComment).where(WorkItemComment.author_id == person.id))


register(
    Part(
        "work_items",
        (WorkItem.responsible_id, WorkItem.reporter_id, WorkItemWatcher.user_id, WorkItemComment.author_id),
        export,
        erase,
        "Your work items are kept without your name. Your comments on them are deleted.",
    )
)
exempt("who made it: the number of a user who has no name any more", WorkItem.created_by_id)
