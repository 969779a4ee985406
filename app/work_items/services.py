"""Changes to work items. Each function checks the permissions of the acting user; the caller commits.

A row that is changed is loaded once, by the caller, with its lock: `get(user, id, for_update=True)`, or `lock_many`.
Digests of status changes are not sent here: hooks.py listens for changes from any code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from app.accounts import Role, User, require
from app.work_items.models import (
    MAX_DESCRIPTION_CHARACTERS,
    MAX_TITLE_CHARACTERS,
    MODELS,
    Kind,
    Priority,
    WorkItem,
    WorkStatus,
    as_priority,
    as_status,
    check_parent,
)
from app.work_items.ordering import position_below, positions_on_top
from app.work_items.queries import get
from flask_belfry.core.errors import ConflictError, InvalidInputError, NotFoundError
from flask_belfry.core.presentation import words
from flask_belfry.core.text import CONTROL_CHARACTERS, CONTROL_CHARACTERS_REFUSED
from flask_belfry.db import db

# The fields that users set; the last three are the assignment, which is for staff.
FIELDS = frozenset({"title", "description", "priority", "due_date", "responsible_id", "reporter_id", "parent_id"})
ASSIGNMENT = frozenset({"responsible_id", "reporter_id", "parent_id"})
# The fields of a bulk change.
BULK_FIELDS = frozenset({"status", "priority", "due_date", "responsible_id"})
NOT_YOURS = "Only staff, the person responsible and the reporter can change a work item."
# Catches a mistyped year.
EARLIEST, LATEST = date(2000, 1, 1), date(2100, 1, 1)


class Parts(StrEnum):
    """What to do with the parts of an item that is deleted."""

    DELETE = "delete"
    MOVE = "move"


def create(
    user: User,
    kind: Kind,
    *,
    title: str,
    description: str = "",
    status: str = WorkStatus.TODO,
    priority: str = Priority.MEDIUM,
    due_date: date | None = None,
    responsible_id: int | None = None,
    reporter_id: int | None = None,
    parent_id: int | None = None,
) -> WorkItem:
    """Create an item, flushed, at the bottom of its column.

    Args:
        user: the acting user.
        kind: its kind.
        title: 1 to 200 characters.
        description: at most 10,000 characters.
        status, priority: of `WorkStatus` and `Priority`.
        due_date: the day by which it is to be done, or None.
        responsible_id: the owner of an epic, the assignee of others, or None.
        reporter_id: the reporter; None is the acting user.
        parent_id: the epic of a story, the story of a task.

    Raises:
        InvalidInputError: names every invalid field.
        ForbiddenError: the user may not create items.
    """
    require(user, "work_items.create", message="Only staff can create work items.")
    values = {
        "title": title,
        "description": description,
        "due_date": due_date,
        "responsible_id": responsible_id,
        "reporter_id": user.id if reporter_id is None else reporter_id,
        "parent_id": parent_id,
    }
    parent = _parent(user, kind, parent_id)
    school_id = parent.school_id if parent else user.school_id
    _check(values, kind, school_id)
    item = MODELS[kind](
        **_cleaned(values),
        status=as_status(status),
        priority=as_priority(priority),
        school_id=school_id,
        created_by_id=user.id,
    )
    db.session.add(item)
    db.session.flush()
    return item


def change(user: User, item: WorkItem, changes: Mapping[str, Any]) -> None:
    """Change some of `FIELDS` and the status, all or nothing, flushed with one UPDATE.

    Raises:
        ForbiddenError: the user may not change the item.
        InvalidInputError: names every invalid field.
    """
    _change(user, [item], changes)


def set_status(user: User, item: WorkItem, status: str, *, expected: str | None = None) -> None:
    """Set the status of an item, on top of its column, flushed.

    Args:
        user: the acting user.
        item: the row, loaded with its lock.
        status: a `WorkStatus` or its value.
        expected: the status that the user saw; None skips the comparison.

    Raises:
        ForbiddenError, InvalidInputError: as `change`.
        ConflictError: the current status is not `expected`.
    """
    _check_unexpected(item, expected)
    _change(user, [item], {"status": status})


def move(user: User, item: WorkItem, status: str, below_id: int | None, *, expected: str | None = None) -> None:
    """Move a card of the board, flushed.

    Args:
        user: the acting user.
        item: the card, loaded with its lock.
        status: the column.
        below_id: the card directly above the new place; None puts the card on top.
        expected: the column in which the user saw it; None skips the comparison.

    Raises:
        NotFoundError: the other card does not exist, or the user may not see it.
        ForbiddenError: as `change`.
        ConflictError: the card is no longer in the expected column.
        InvalidInputError: the column does not exist, or the other card is no longer in it.
    """
    target = as_status(status)
    require(user, "work_items.set_status", item, message=NOT_YOURS)
    _check_unexpected(item, expected)
    if below_id == item.id:
        raise InvalidInputError("A card cannot be placed below itself.", {"below_id": ["must be another card's id"]})
    above = None if below_id is None else get(user, below_id)
    item.position = (
        positions_on_top([item], target)[item.id] if above is None else position_below(above, item.school_id, target)
    )
    item.status = target
    db.session.flush()


def change_many(user: User, items: Sequence[WorkItem], changes: Mapping[str, Any]) -> None:
    """Make the same changes to many items, all or none, flushed together.

    Args:
        user: the acting user.
        items: the rows, loaded with their locks.
        changes: some of `BULK_FIELDS`.

    Raises:
        ForbiddenError, InvalidInputError: as `change`.
    """
    if others := sorted(changes.keys() - BULK_FIELDS):
        raise InvalidInputError(
            "This field cannot be changed for several items.", {name: ["is not accepted"] for name in others}
        )
    _change(user, items, changes)


def delete(user: User, item: WorkItem, *, parts: str | None = None, to_id: int | None = None) -> None:
    """Delete an item; its history, its mails and their jobs are kept.

    Args:
        user: the acting user.
        item: the row, loaded with its lock.
        parts: what to do with the stories of an epic, or the tasks of a story: one of `Parts`.
        to_id: their new parent, with `Parts.MOVE`.

    Raises:
        ForbiddenError: the user may not delete items.
        ConflictError: the item has parts, and `parts` is missing.
        InvalidInputError: the parts cannot be moved to `to_id`.
    """
    require(user, "work_items.delete", item, message="Only staff can delete work items.")
    of_item = WorkItem.parent_id == item.id
    number = db.session.scalar(sa.select(sa.func.count()).select_from(WorkItem).where(of_item)) or 0
    if number:
        _see_to_parts(user, item, number, _as_parts(parts), to_id)
    db.session.delete(item)
    db.session.flush()


def _check_unexpected(item: WorkItem, expected: str | None) -> None:
    if expected is not None and item.status != expected:
        raise ConflictError(f"{item.name} is {words(item.status)} now, no longer {words(expected)}.")


def _see_to_parts(user: User, item: WorkItem, number: int, parts: Parts | None, to_id: int | None) -> None:
    assert item.kind.child is not None
    of_item = WorkItem.parent_id == item.id
    if parts is None:
        counted = f"{number} {item.kind.child.plural if number > 1 else item.kind.child}"
        raise ConflictError(
            f"{item.name} has {counted}: delete them too, or move them.",
            {"parts": [f"must be {Parts.DELETE}, or {Parts.MOVE} with to_id"]},
        )
    if parts is Parts.MOVE:
        heir = _heir(user, item, to_id)
        db.session.execute(sa.update(WorkItem).where(of_item).values(parent_id=heir.id))
        return
    of_parts = WorkItem.parent_id.in_(sa.select(WorkItem.id).where(of_item))
    for condition in (of_parts, of_item):
        db.session.execute(sa.delete(WorkItem).where(condition))


def _heir(user: User, item: WorkItem, to_id: int | None) -> WorkItem:
    """Return the new parent of the parts of an item that is deleted. Raises InvalidInputError."""
    problem = {"to_id": [f"must be the id of another of the {item.kind.plural}"]}
    if to_id is None or to_id == item.id:
        raise InvalidInputError("Select where they move to.", problem)
    try:
        heir = get(user, to_id, kind=item.kind)
    except NotFoundError as error:
        raise InvalidInputError(error.message, problem) from error
    if heir.school_id != item.school_id:
        raise InvalidInputError("It belongs to another school.", problem)
    return heir


def _as_parts(value: str | None) -> Parts | None:
    try:
        return None if value is None else Parts(value)
    except ValueError:
        raise InvalidInputError("Invalid choice.", {"parts": [f"must be {' or '.join(Parts)}"]}) from None


def _change(user: User, items: Sequence[WorkItem], changes: Mapping[str, Any]) -> None:
    """Check all items, then set what differs: a query between two assignments would write a row twice."""
    differing = [_differing(user, item, changes) for item in items]
    moved = [item for item, values in zip(items, differing, strict=True) if "status" in values]
    positions = positions_on_top(moved, as_status(changes["status"])) if moved else {}
    for item, values in zip(items, differing, strict=True):
        for name, value in values.items():
            setattr(item, name, value)
        item.position = positions.get(item.id, item.position)
    db.session.flush()


def _differing(user: User, item: WorkItem, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that differ from those of the item, checked."""
    values = {name: value for name, value in changes.items() if name in FIELDS and value != getattr(item, name)}
    if "status" in changes and (status := as_status(changes["status"])) is not item.status:
        values["status"] = status
    if "priority" in values:
        values["priority"] = as_priority(values["priority"])
    if values:
        require(user, "work_items.update", item, message=NOT_YOURS)
    if "status" in values:
        require(user, "work_items.set_status", item, message=NOT_YOURS)
    if ASSIGNMENT & values.keys():
        require(user, "work_items.assign", item, message="Only staff can assign work items.")
    if "parent_id" in values:
        parent = _parent(user, item.kind, values["parent_id"])
        if parent is not None and parent.school_id != item.school_id:
            raise InvalidInputError(
                "It belongs to another school.", {f"{parent.kind}_id": ["must be one of this school"]}
            )
    _check(values, item.kind, item.school_id)
    return _cleaned(values)


def _parent(user: User, kind: Kind, parent_id: int | None) -> WorkItem | None:
    """Return the parent of an item of `kind`; None for an epic. Raises InvalidInputError."""
    if kind.parent is None:
        if parent_id is not None:
            raise InvalidInputError("An epic cannot have a parent.", {"parent_id": ["must be absent"]})
        return None
    field = f"{kind.parent}_id"
    if parent_id is None:
        raise InvalidInputError(f"Select its {kind.parent}.", {field: ["is required"]})
    try:
        parent = get(user, parent_id)
    except NotFoundError as error:
        raise InvalidInputError(
            error.message, {field: [f"must be the id of one of the {kind.parent.plural}"]}
        ) from error
    check_parent(kind, parent)
    return parent


def _cleaned(values: Mapping[str, Any]) -> dict[str, Any]:
    cleaned = dict(values)
    if "title" in cleaned:
        cleaned["title"] = " ".join(cleaned["title"].split())
    return cleaned


def _check(values: Mapping[str, Any], kind: Kind, school_id: int) -> None:
    """Raise InvalidInputError, which names every invalid field as the kind does."""
    checks = {
        "title": _title_problem,
        "description": _description_problem,
        "due_date": _due_date_problem,
        "responsible_id": lambda id: _person_problem(id, school_id),
        "reporter_id": lambda id: _person_problem(id, school_id),
    }
    found = {name: check(values[name]) for name, check in checks.items() if name in values}
    names = {"responsible_id": f"{kind.responsible}_id"}
    if problems := {names.get(name, name): [problem] for name, problem in found.items() if problem}:
        raise InvalidInputError("Some fields are invalid.", problems)


def _title_problem(title: str) -> str | None:
    if not 1 <= len(title.strip()) <= MAX_TITLE_CHARACTERS:
        return f"Write 1 to {MAX_TITLE_CHARACTERS} characters."
    return CONTROL_CHARACTERS_REFUSED if CONTROL_CHARACTERS.search(title) else None


def _description_problem(description: str) -> str | None:
    if len(description) > MAX_DESCRIPTION_CHARACTERS:
        return f"Write at most {MAX_DESCRIPTION_CHARACTERS} characters."
    return CONTROL_CHARACTERS_REFUSED if CONTROL_CHARACTERS.search(description) else None


def _due_date_problem(due_date: date | None) -> str | None:
    return None if due_date is None or EARLIEST <= due_date < LATEST else f"Choose a day before {LATEST:%Y}."


def _person_problem(user_id: int | None, school_id: int) -> str | None:
    if user_id is None:
        return None
    person = db.session.get(User, user_id)
    is_known = person is not None and person.active and person.is_confirmed
    is_theirs = person is not None and (person.school_id == school_id or person.role is Role.ADMIN)
    return None if is_known and is_theirs else "Select an active user of the school."
