"""Personal data in work items: responsibilities, reports, watched items and comments."""

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
OF_COMMENT = (WorkItemComment.item_id, WorkItemComment.text, WorkItemComment.created_at)


def export(person: Person) -> dict[str, Any]:
    """Return the items of a person by role, and the person's comments."""
    of_them = {
        "responsible_for": WorkItem.responsible_id == person.id,
        "reported": WorkItem.reporter_id == person.id,
        "watched": WorkItem.id.in_(sa.select(WorkItemWatcher.item_id).where(WorkItemWatcher.user_id == person.id)),
    }
    items = {
        name: rows_of(sa.select(*COLUMNS).where(condition).order_by(WorkItem.id)) for name, condition in of_them.items()
    }
    comments = sa.select(*OF_COMMENT).where(WorkItemComment.author_id == person.id).order_by(WorkItemComment.id)
    return {**items, "comments": rows_of(comments)}


def erase(person: Person) -> None:
    """Remove the person from their items, and delete their comments."""
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
exempt("the creator: the id of a user whose name is erased", WorkItem.created_by_id)
