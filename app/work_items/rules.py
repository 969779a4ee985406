"""Permissions for work items, as rules for `app.accounts.can`.

Staff plan the work of the school; members see only the items that they are part of.
"""

from __future__ import annotations

from app.accounts import User, allow
from app.work_items.models import WorkItem, WorkItemComment


def declare() -> None:
    """Declare the rules; called once, when the slice is imported."""
    allow("work_items.view_all", _is_staff)
    allow("work_items.create", _is_staff)
    allow("work_items.delete", _is_staff)
    # People involved move and describe an item; its assignment and its parent are for staff.
    allow("work_items.set_status", _has_part)
    allow("work_items.update", _has_part)
    allow("work_items.assign", _is_staff)
    # Everyone who may see the item.
    allow("work_items.comment", _is_anybody)
    allow("work_items.watch", _is_anybody)
    allow("work_items.edit_comment", _is_author)
    allow("work_items.delete_comment", _is_staff_or_author)


def _is_anybody(_: User, __: object) -> bool:
    return True


def _is_staff(user: User, _: object) -> bool:
    return user.is_staff


def _has_part(user: User, row: object) -> bool:
    return user.is_staff or (isinstance(row, WorkItem) and user.id in (row.responsible_id, row.reporter_id))


def _is_author(user: User, row: object) -> bool:
    return isinstance(row, WorkItemComment) and row.author_id == user.id


def _is_staff_or_author(user: User, row: object) -> bool:
    return user.is_staff or _is_author(user, row)
