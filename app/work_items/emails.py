"""Mails about work items: one context for each mail, read with two queries for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import aliased

from app.accounts import READER_ZONE, User
from app.work_items.models import WorkItem, WorkItemComment
from flask_belfry.core.presentation import localdate, localtime
from flask_belfry.db import db
from flask_belfry.mail import MailEntry, mail_kind

Context = dict[str, Any]
Contexts = dict[str, Context | None]

# From one person to another; more comments are still shown on the item.
MAX_MENTIONS_PER_HOUR = 20
STATUS, MENTION, DUE = "work-item-status", "work-item-mention", "work-item-due"


@dataclass(frozen=True)
class Facts:
    """The items and people of a chunk of mails."""

    items: Mapping[int, Any]
    people: Mapping[int, Any]

    def name(self, user_id: int | None) -> str:
        """Return the name of a user."""
        found = self.people.get(user_id or 0)
        return found.name if found else "Belfry"

    def zone(self, user_id: int) -> ZoneInfo:
        """Return the time zone of a reader."""
        found = self.people.get(user_id)
        return ZoneInfo((found and found.time_zone) or current_app.config["TIMEZONE"])


def sample_status() -> Context:
    """Return a sample: a task that was finished within half a minute."""
    return _sample() | {
        "old": "IN_PROGRESS",
        "new": "DONE",
        "way": ["IN_PROGRESS", "IN_REVIEW", "DONE"],
        "by": "Grace Hopper",
        "by_reader": False,
        "changed_at": "Mon 24 Nov 2025, 09:12",
        "zone": "UTC",
        "reason": "you watch this task",
    }


def sample_mention() -> Context:
    """Return a sample: a question."""
    return _sample() | {
        "by": "Grace Hopper",
        "text": "@ada can you bring the cello?\nThe hall is open from eight.",
        "said_at": "Mon 24 Nov 2025, 09:12",
        "zone": "UTC",
    }


def sample_due() -> Context:
    """Return a sample: a task that is due tomorrow."""
    return _sample() | {
        "due": "Tue 25 Nov 2025",
        "is_overdue": False,
        "status": "IN_PROGRESS",
        "reason": "you are the assignee of this task",
    }


@mail_kind(
    STATUS,
    sample=sample_status,
    reason=None,
    choice="The status of a work item of mine changes",
)
def work_item_status(entries: Sequence[MailEntry]) -> Contexts:
    """For the people involved: the new status of an item, and the steps to it."""
    return _contexts(entries, _status_context)


@mail_kind(
    DUE,
    sample=sample_due,
    reason=None,
    choice="A work item of mine is due, or overdue",
    queue="bulk",
)
def work_item_due(entries: Sequence[MailEntry]) -> Contexts:
    """For the person responsible for an item that is due tomorrow or overdue."""
    return _contexts(entries, _due_context)


@mail_kind(
    MENTION,
    sample=sample_mention,
    reason="you were mentioned in a comment",
    choice="Someone mentions me in a comment",
    hourly_cap=MAX_MENTIONS_PER_HOUR,
)
def work_item_mention(entries: Sequence[MailEntry]) -> Contexts:
    """For people mentioned in a comment; no mail is sent if the comment has been deleted."""
    ids = {entry.context["comment_id"] for entry in entries}
    comments = {
        row.id: row for row in db.session.scalars(sa.select(WorkItemComment).where(WorkItemComment.id.in_(ids)))
    }

    def build(entry: MailEntry, item: Any, facts: Facts) -> Context | None:
        comment = comments.get(entry.context["comment_id"])
        return comment and _mention_context(entry, item, facts, comment)

    return _contexts(entries, build)


def _contexts(entries: Sequence[MailEntry], build: Callable[[MailEntry, Any, Facts], Context | None]) -> Contexts:
    facts = _read(entries)
    contexts: Contexts = {}
    for entry in entries:
        item = facts.items.get(entry.row_id)
        contexts[entry.id] = build(entry, item, facts) if item else None
    return contexts


def _read(entries: Sequence[MailEntry]) -> Facts:
    parent = aliased(WorkItem, flat=True)
    items = (
        sa.select(
            WorkItem.id,
            WorkItem.kind,
            WorkItem.title,
            WorkItem.status,
            WorkItem.priority,
            WorkItem.due_date,
            WorkItem.responsible_id,
            WorkItem.reporter_id,
            parent.kind.label("parent_kind"),
            parent.title.label("parent_title"),
        )
        .outerjoin(parent, parent.id == WorkItem.parent_id)
        .where(WorkItem.id.in_({entry.row_id for entry in entries}))
    )
    ids = {id for entry in entries for id in _user_ids(entry.context)}
    people = sa.select(User.id, User.name, READER_ZONE.label("time_zone")).where(User.id.in_(ids))
    return Facts(
        {row.id: row for row in db.session.execute(items)}, {row.id: row for row in db.session.execute(people)}
    )


def _user_ids(context: Mapping[str, Any]) -> set[int]:
    named = {context.get("reader"), context.get("by"), *(step["by"] for step in context.get("way", ()))}
    return {id for id in named if id is not None}


def _reason(item: Any, reader: int) -> str:
    """Return why a reader is notified of an item, by its current people."""
    if reader == item.responsible_id:
        return f"you are the {item.kind.responsible} of this {item.kind.value}"
    if reader == item.reporter_id:
        return f"you reported this {item.kind.value}"
    return f"you watch this {item.kind.value}"


def _item_context(item: Any, priority: str) -> Context:
    return {
        "id": item.id,
        "kind": item.kind.value,
        "title": item.title,
        "priority": priority,
        "parent": f"{item.parent_kind.value} “{item.parent_title}”" if item.parent_kind else None,
        "path": f"/work-items/{item.id}",
    }


def _status_context(entry: MailEntry, item: Any, facts: Facts) -> Context:
    way, reader = entry.context["way"], entry.context["reader"]
    last, zone = way[-1], facts.zone(reader)
    makers = {step["by"] for step in way}
    return _item_context(item, entry.context["priority"]) | {
        "old": way[0]["old"],
        "new": last["new"],
        "way": [way[0]["old"], *(step["new"] for step in way)],
        "by": " and ".join(sorted({facts.name(maker) for maker in makers})),
        "by_reader": makers == {reader},
        "changed_at": localtime(datetime.fromisoformat(last["at"]), zone),
        "zone": zone.key,
        "reason": _reason(item, reader),
    }


def _mention_context(entry: MailEntry, item: Any, facts: Facts, comment: WorkItemComment) -> Context:
    zone = facts.zone(entry.context["reader"])
    return _item_context(item, item.priority) | {
        "by": facts.name(entry.context["by"]),
        "text": comment.text,
        "said_at": localtime(comment.created_at, zone),
        "zone": zone.key,
    }


def _due_context(entry: MailEntry, item: Any, facts: Facts) -> Context | None:
    # The item may have been finished, or be due on another day, since the mail was enqueued.
    due = date.fromisoformat(entry.context["due"])
    if item.due_date != due or item.status.value == "DONE":
        return None
    return _item_context(item, item.priority) | {
        "due": localdate(due),
        "is_overdue": entry.context["is_overdue"],
        "status": item.status.value,
        "reason": _reason(item, entry.context["reader"]),
    }


def _sample() -> Context:
    return {
        "id": 42,
        "kind": "task",
        "title": "Tune the piano",
        "priority": "HIGH",
        "parent": "story “The autumn concert”",
        "path": "/work-items/42",
    }
