"""The work items of the demo: two epics with stories and tasks, written with Core inserts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import sqlalchemy as sa

from app.work_items import Kind, Priority, WorkItem, WorkItemComment, WorkItemWatcher, WorkStatus
from flask_belfry.changes import StatusChange, subject_type
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db, table_of
from flask_belfry.db.columns import new_id

ITEMS, COMMENTS_TABLE = table_of(WorkItem), table_of(WorkItemComment)
# Distance of two cards of the board.
STEP = 1_000_000
TODO, IN_PROGRESS, IN_REVIEW, DONE, BLOCKED = WorkStatus
LOW, MEDIUM, HIGH, CRITICAL = Priority

# The statuses of an item up to the current one.
STEPS_TO: Mapping[WorkStatus, Sequence[WorkStatus]] = {
    TODO: (TODO,),
    IN_PROGRESS: (TODO, IN_PROGRESS),
    IN_REVIEW: (TODO, IN_PROGRESS, IN_REVIEW),
    DONE: (TODO, IN_PROGRESS, IN_REVIEW, DONE),
    BLOCKED: (TODO, IN_PROGRESS, BLOCKED),
}


class Item(NamedTuple):
    """An item of the demo, with its parts. `due` counts days from today."""

    title: str
    status: WorkStatus
    responsible: str | None
    priority: Priority = MEDIUM
    due: int | None = None
    parts: Sequence[Item] = ()
    description: str = ""


EPICS = (
    Item(
        "The autumn concert",
        IN_PROGRESS,
        "staff",
        HIGH,
        21,
        (
            Item(
                "The programme is chosen and printed",
                IN_REVIEW,
                "noether",
                HIGH,
                4,
                (
                    Item("Choose the pieces with the choir", DONE, "noether", HIGH, -9),
                    Item("Ask the composers' heirs for the rights", DONE, "staff", MEDIUM, -3),
                    Item("Write the programme notes", IN_REVIEW, "hopper", MEDIUM, 2),
                    Item("Print 300 programmes", TODO, "member", LOW, 12),
                ),
                "Two halves of forty minutes, with something that the first graders can sing along to.",
            ),
            Item(
                "The hall is ready for 250 guests",
                IN_PROGRESS,
                "staff",
                MEDIUM,
                18,
                (
                    Item("Count the chairs", DONE, "banneker", LOW, -12),
                    Item("Tune the piano", IN_PROGRESS, "member", HIGH, 3),
                    Item("Borrow a ramp for the side entrance", BLOCKED, "staff", HIGH, 8),
                    Item("Test the lights and the microphones", TODO, "ramanujan", MEDIUM, 15),
                ),
            ),
            Item(
                "Rehearsals",
                IN_PROGRESS,
                "hopper",
                HIGH,
                17,
                (
                    Item("A plan of all rehearsals", DONE, "hopper", HIGH, -6),
                    Item("Find a second cello", BLOCKED, "member", CRITICAL, -1),
                    Item("Dress rehearsal", TODO, "hopper", HIGH, 20),
                ),
            ),
        ),
        "Families come, and so does the newspaper. What went wrong last year: too few chairs, no second cello.",
    ),
    Item(
        "A quieter library",
        IN_PROGRESS,
        "admin",
        MEDIUM,
        60,
        (
            Item(
                "Rooms for groups to talk in",
                IN_PROGRESS,
                "ramanujan",
                MEDIUM,
                30,
                (
                    Item("Measure how loud it is", DONE, "ramanujan", MEDIUM, -20),
                    Item("Ask three joiners for an offer", IN_PROGRESS, "staff", MEDIUM, 6),
                    Item("Choose the doors", TODO, None, LOW, 25),
                ),
            ),
            Item(
                "New opening hours",
                TODO,
                "banneker",
                LOW,
                45,
                (
                    Item("Ask pupils when they would come", IN_REVIEW, "banneker", MEDIUM, 5),
                    Item("A rota for the afternoons", TODO, None, MEDIUM),
                ),
            ),
            Item(
                "The old catalogue moves to the new system",
                BLOCKED,
                "admin",
                HIGH,
                10,
                (
                    Item("Export the old catalogue", DONE, "admin", HIGH, -8),
                    Item("Mend the 340 books without a signature", IN_PROGRESS, "noether", HIGH, -2),
                    Item("Load it into the new system", BLOCKED, "admin", CRITICAL, 9),
                    Item("Labels for the shelves", TODO, "member", LOW),
                ),
                "Blocked until the supplier says which character set their import takes.",
            ),
        ),
    ),
)
# Comments, by the title of the item.
COMMENTS = {
    "Find a second cello": (
        ("member", "I have asked the music school: all their cellists are busy on that evening."),
        ("hopper", "@member my sister plays. I will ask her tonight."),
    ),
    "Load it into the new system": (("admin", "Their hotline calls back on Monday."),),
}


def load_work(school_id: int, users: Mapping[str, int], today: date) -> int:
    """Create the items unless these users have some. The caller commits.

    Returns:
        number of new items.
    """
    if db.session.scalar(sa.select(WorkItem.id).where(WorkItem.reporter_id.in_(users.values())).limit(1)):
        return 0
    connection, made = db.session.connection(), []
    level: list[tuple[Item, int | None]] = [(epic, None) for epic in EPICS]
    for kind in Kind:
        facts = {"kind": kind, "school_id": school_id}
        rows = [
            facts | _row(len(made) + number, item, parent_id, users, today)
            for number, (item, parent_id) in enumerate(level)
        ]
        statement = sa.insert(ITEMS).returning(ITEMS.c.id, sort_by_parameter_order=True)
        ids = connection.execute(statement, rows).scalars().all()
        changes = [change for id, row in zip(ids, rows, strict=True) for change in _change_rows(id, row)]
        connection.execute(sa.insert(StatusChange), changes)
        made += [(item, id) for (item, _), id in zip(level, ids, strict=True)]
        level = [(part, id) for (item, _), id in zip(level, ids, strict=True) for part in item.parts]
    _insert_comments({item.title: id for item, id in made}, school_id, users)
    return len(made)


def wipe_work(users: sa.Select[Any]) -> None:
    """Delete items that these users reported, with all parts, and the users from other items. The caller commits."""
    connection = db.session.connection()
    going = set(connection.execute(sa.select(ITEMS.c.id).where(ITEMS.c.reporter_id.in_(users))).scalars())
    for _ in Kind:
        going |= set(connection.execute(sa.select(ITEMS.c.id).where(ITEMS.c.parent_id.in_(going))).scalars())
    connection.execute(sa.delete(ITEMS).where(ITEMS.c.id.in_(going)))
    for column in (ITEMS.c.responsible_id, ITEMS.c.created_by_id, COMMENTS_TABLE.c.author_id):
        connection.execute(sa.update(column.table).where(column.in_(users)).values({column: None}))


def _row(number: int, item: Item, parent_id: int | None, users: Mapping[str, int], today: date) -> dict[str, Any]:
    return {
        "parent_id": parent_id,
        "title": item.title,
        "description": item.description,
        "status": item.status,
        "priority": item.priority,
        "due_date": None if item.due is None else today + timedelta(days=item.due),
        "position": (number + 1) * STEP,
        "responsible_id": users[item.responsible] if item.responsible else None,
        "reporter_id": users["staff"],
        "created_by_id": users["staff"],
        "created_at": utc_now() - timedelta(days=30) + timedelta(hours=number),
    }


def _change_rows(item_id: int, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the changes up to the status of an item, one every other day."""
    statuses = STEPS_TO[row["status"]]
    steps = pairwise(statuses)
    moments = [row["created_at"] + timedelta(days=2 * number) for number in range(1, len(statuses))]
    return [
        {
            "id": new_id(at),
            "subject_type": subject_type(WorkItem),
            "subject_id": item_id,
            "field": WorkItem.status.key,
            "old": old.value,
            "new": new.value,
            "at": at,
            "school_id": row["school_id"],
            "user_id": row["responsible_id"] or row["created_by_id"],
        }
        for (old, new), at in zip(steps, moments, strict=True)
    ]


def _insert_comments(ids: Mapping[str, int], school_id: int, users: Mapping[str, int]) -> None:
    """Insert comments, whose authors watch the items."""
    written = [(ids[title], users[name], text) for title, texts in COMMENTS.items() for name, text in texts]
    comments = [
        {"item_id": item_id, "author_id": author_id, "text": text, "school_id": school_id}
        for item_id, author_id, text in written
    ]
    watchers = [{"item_id": item_id, "user_id": user_id} for item_id, user_id in {each[:2] for each in written}]
    db.session.connection().execute(sa.insert(COMMENTS_TABLE), comments)
    db.session.connection().execute(sa.insert(WorkItemWatcher), watchers)
