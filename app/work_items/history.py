"""The history of a work item, with the names of its fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from app import history
from app.accounts import User, can, names_of
from app.history import HistoryEntry, Origins, for_outsider
from app.work_items.models import WorkItem
from flask_belfry.changes import StatusChange, subject_of
from flask_belfry.db import db

PEOPLE = frozenset({WorkItem.responsible_id.key, WorkItem.reporter_id.key})


def history_for(user: User, item: WorkItem) -> list[HistoryEntry]:
    """Return the history of an item that `user` may see: all of it for staff, without others' mails for others."""
    entries = history_of(item)
    if can(user, "work_items.view_all"):
        return entries
    return [for_outsider(entry, user) for entry in entries]


def history_of(item: WorkItem) -> list[HistoryEntry]:
    """Return all entries, newest first. The caller has checked permissions."""
    return history.history_of(
        subject_of(item), Origins(item.created_at, item.created_by_id, item.status), lambda made: _notes(item, made)
    )


def _notes(item: WorkItem, changes: Sequence[StatusChange]) -> dict[str, str]:
    people = {value for field in PEOPLE for value in _values(changes, field)}
    names = {str(id): name for id, name in names_of({int(id) for id in people}).items()}
    parent_ids = [int(id) for id in _values(changes, WorkItem.parent_id.key)]
    parents = db.session.execute(sa.select(WorkItem.id, WorkItem.title).where(WorkItem.id.in_(parent_ids)))
    titles = {str(row.id): f"#{row.id} {row.title}" for row in parents}
    return {change.id: _note(item, change, names, titles) for change in changes}


def _note(item: WorkItem, change: StatusChange, names: Mapping[str, str], titles: Mapping[str, str]) -> str:
    known = names if change.field in PEOPLE else titles if change.field == WorkItem.parent_id.key else {}
    old, new = ((known.get(value, value) if value else "none") for value in (change.old, change.new))
    return f"{_field(item, change.field)}: {old} → {new}"


def _field(item: WorkItem, field: str) -> str:
    names = {
        WorkItem.responsible_id.key: item.kind.responsible,
        WorkItem.reporter_id.key: "reporter",
        WorkItem.parent_id.key: str(item.kind.parent or "parent"),
        WorkItem.due_date.key: "due",
    }
    return names.get(field, field)


def _values(changes: Sequence[StatusChange], field: str) -> set[str]:
    return {value for change in changes if change.field == field for value in (change.old, change.new) if value}
