"""Queries of work items. Each one is limited to the items that the user may see."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import sqlalchemy as sa
from sqlalchemy.orm import aliased, selectinload

from app.accounts import STAFF_ROLES, User, can
from app.work_items.models import (
    Kind,
    Priority,
    WorkItem,
    WorkItemComment,
    WorkItemWatcher,
    WorkStatus,
)
from flask_belfry.core.errors import InvalidInputError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page, page_by_key

# Limit of one column of the board; the list shows the others.
CARDS_PER_COLUMN = 50
# Limit of the people that a form offers; staff come first.
PEOPLE_OFFERED = 500
MAX_BULK_ITEMS = 500


@dataclass(frozen=True)
class Filters:
    """Filters of a list of items; None matches all items.

    Args:
        kind, status, priority: one of each.
        kinds: any of these.
        parent_id: the parts of one item.
        within_id: the parts of one item, and theirs.
        responsible_id, reporter_id: the items of one person.
        due_before: due before that day, and not done.
        text: in the title or the description, or the number.
    """

    kind: Kind | None = None
    status: WorkStatus | None = None
    priority: Priority | None = None
    kinds: Collection[Kind] | None = None
    parent_id: int | None = None
    within_id: int | None = None
    responsible_id: int | None = None
    reporter_id: int | None = None
    due_before: date | None = None
    text: str | None = None


@dataclass(frozen=True)
class Column:
    """One column of the board: its first cards, and whether there are more."""

    status: WorkStatus
    items: Sequence[WorkItem]
    has_more: bool


@dataclass(frozen=True)
class Progress:
    """The progress of the parts of an item."""

    done: int
    total: int


def visible_to(user: User) -> sa.Select[WorkItem]:
    """Return the query of the items that `user` may see: for staff those of the school, for others their own."""
    query = sa.select(WorkItem)
    if can(user, "work_items.view_all"):
        return query
    watched = sa.select(WorkItemWatcher.item_id).where(WorkItemWatcher.user_id == user.id)
    is_part = sa.or_(WorkItem.responsible_id == user.id, WorkItem.reporter_id == user.id, WorkItem.id.in_(watched))
    return query.where(is_part)


def get(user: User, item_id: int, *, kind: Kind | None = None, for_update: bool = False) -> WorkItem:
    """Return an item that `user` may see.

    Args:
        user: the reader.
        item_id: id of the item.
        kind: required kind.
        for_update: lock the row until the commit, and read its current values.

    Raises:
        NotFoundError: the item does not exist, or the user may not see it.
    """
    query = visible_to(user).where(WorkItem.id == item_id)
    if kind is not None:
        query = query.where(WorkItem.kind == kind)
    if for_update:
        query = query.with_for_update().execution_options(populate_existing=True)
    found = db.session.scalar(query)
    if found is None:
        raise NotFoundError(f"{str(kind or 'item').capitalize()} #{item_id} does not exist.")
    return found


def lock_many(user: User, item_ids: Collection[int], *, kind: Kind | None = None) -> Sequence[WorkItem]:
    """Return items that `user` may see, by id, locked until the commit.

    Args:
        user: the reader.
        item_ids: 1 to `MAX_BULK_ITEMS` ids.
        kind: required kind of all of them.

    Raises:
        InvalidInputError: no ids, or too many.
        NotFoundError: names those that do not exist, or that the user may not see.
    """
    wanted = set(item_ids)
    if not 1 <= len(wanted) <= MAX_BULK_ITEMS:
        raise InvalidInputError(
            f"Select between 1 and {MAX_BULK_ITEMS} items.", {"ids": [f"must be 1 to {MAX_BULK_ITEMS} ids"]}
        )
    query = visible_to(user).where(WorkItem.id.in_(sorted(wanted))).order_by(WorkItem.id).with_for_update()
    if kind is not None:
        query = query.where(WorkItem.kind == kind)
    items = db.session.scalars(query.execution_options(populate_existing=True)).all()
    if missing := sorted(wanted - {item.id for item in items}):
        named = ", ".join(f"#{id}" for id in missing[:10])
        raise NotFoundError(f"These items do not exist: {named}.", {"ids": [f"not found: {named}"]})
    return items


def page(user: User, filters: Filters, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[WorkItem]:
    """Return one page of the items that `user` may see, newest first, with their people."""
    query = _with_people(visible_to(user).where(*_conditions(filters)))
    return page_by_key(db.session(), query, (WorkItem.id,), limit=limit, cursor=cursor)


def page_of_all(filters: Filters, *, limit: int = DEFAULT_LIMIT) -> Page[WorkItem]:
    """Return the first page of the current scope, newest first, for commands."""
    return page_by_key(db.session(), sa.select(WorkItem).where(*_conditions(filters)), (WorkItem.id,), limit=limit)


def board(user: User, filters: Filters) -> list[Column]:
    """Return the columns of the board in the order of the statuses, with their cards in order."""
    return [_column(user, replace(filters, status=status)) for status in WorkStatus]


@dataclass(frozen=True)
class Place:
    """The place of a card on the board: its column, and the visible card directly above it."""

    status: WorkStatus
    below_id: int | None


def place_of(user: User, item: WorkItem) -> Place:
    """Return the current place of a card."""
    above = (
        visible_to(user)
        .with_only_columns(WorkItem.id)
        .where(
            WorkItem.school_id == item.school_id,
            WorkItem.status == item.status,
            sa.tuple_(WorkItem.position, WorkItem.id) < sa.tuple_(item.position, item.id),
        )
        .order_by(WorkItem.position.desc(), WorkItem.id.desc())
    )
    return Place(item.status, db.session.scalar(above.limit(1)))


def counts(user: User, filters: Filters) -> Mapping[WorkStatus, int]:
    """Return the number of items in each column, including those that the board does not show."""
    found = (
        visible_to(user)
        .where(*_conditions(filters))
        .with_only_columns(WorkItem.status, sa.func.count().label("number"))
    )
    counted = {row.status: row.number for row in db.session.execute(found.group_by(WorkItem.status))}
    return {status: counted.get(status, 0) for status in WorkStatus}


def open_of(user: User, limit: int) -> Sequence[WorkItem]:
    """Return the open items of a user, the first due on top."""
    query = visible_to(user).where(WorkItem.responsible_id == user.id, WorkItem.status != WorkStatus.DONE)
    return db.session.scalars(query.order_by(WorkItem.due_date.nulls_last(), WorkItem.id).limit(limit)).all()


def children(user: User, item: WorkItem) -> Sequence[WorkItem]:
    """The parts of an item that `user` may see, in order."""
    query = visible_to(user).where(WorkItem.parent_id == item.id)
    return db.session.scalars(_with_people(query).order_by(WorkItem.position, WorkItem.id)).all()


def progress_of(item_ids: Sequence[int]) -> Mapping[int, Progress]:
    """Return the progress of those items that have parts."""
    query = (
        sa.select(
            WorkItem.parent_id,
            sa.func.count(sa.case((WorkItem.status == WorkStatus.DONE, 1))).label("done"),
            sa.func.count().label("total"),
        )
        .where(WorkItem.parent_id.in_(item_ids))
        .group_by(WorkItem.parent_id)
    )
    return {row.parent_id: Progress(row.done, row.total) for row in db.session.execute(query)}


def possible_parents(user: User, kind: Kind, limit: int = 200) -> Sequence[WorkItem]:
    """Return the possible parents of an item of `kind`, newest first, without those that are done."""
    if kind.parent is None:
        return []
    query = visible_to(user).where(WorkItem.kind == kind.parent, WorkItem.status != WorkStatus.DONE)
    return db.session.scalars(query.order_by(WorkItem.id.desc()).limit(limit)).all()


def titles_of(user: User, item_ids: Collection[int]) -> Mapping[int, str]:
    """Return the titles of those items that `user` may see."""
    query = visible_to(user).where(WorkItem.id.in_(item_ids)).with_only_columns(WorkItem.id, WorkItem.title)
    return {row.id: row.title for row in db.session.execute(query)}


def numbers_of_parts(item: WorkItem) -> tuple[int, int]:
    """Return the number of parts of an item, and of their parts. The caller has checked permissions."""
    part = aliased(WorkItem)
    below = sa.select(sa.func.count()).select_from(WorkItem)
    parts = db.session.scalar(below.where(WorkItem.parent_id == item.id)) or 0
    theirs = below.join(part, part.id == WorkItem.parent_id).where(part.parent_id == item.id)
    return parts, db.session.scalar(theirs) or 0


def people_of_school(school_id: int) -> Sequence[User]:
    """Return the people to whom an item of a school can be assigned: its active users, staff first, then by name."""
    is_member = sa.case((User.role.in_(STAFF_ROLES), 0), else_=1)
    query = sa.select(User).where(User.school_id == school_id, User.active, User.confirmed_at.is_not(None))
    return db.session.scalars(query.order_by(is_member, User.name, User.id).limit(PEOPLE_OFFERED)).all()


def comments_of(item: WorkItem, *, limit: int = 100, cursor: str | None = None) -> Page[WorkItemComment]:
    """Return comments on an item, oldest first. The caller has checked permissions."""
    query = (
        sa.select(WorkItemComment)
        .where(WorkItemComment.item_id == item.id)
        .options(selectinload(WorkItemComment.author))
    )
    return page_by_key(db.session(), query, (WorkItemComment.id,), limit=limit, cursor=cursor, descending=False)


def watchers_of(item: WorkItem) -> Sequence[User]:
    """Return the watchers of an item, by name. The caller has checked permissions."""
    query = sa.select(User).join(WorkItemWatcher, WorkItemWatcher.user_id == User.id)
    return db.session.scalars(query.where(WorkItemWatcher.item_id == item.id).order_by(User.name)).all()


def _column(user: User, filters: Filters) -> Column:
    query = visible_to(user).where(*_conditions(filters)).options(selectinload(WorkItem.responsible))
    ordered = query.order_by(WorkItem.position, WorkItem.id).limit(CARDS_PER_COLUMN + 1)
    found = db.session.scalars(ordered).all()
    assert filters.status is not None
    return Column(filters.status, found[:CARDS_PER_COLUMN], len(found) > CARDS_PER_COLUMN)


def _with_people(query: sa.Select[WorkItem]) -> sa.Select[WorkItem]:
    return query.options(selectinload(WorkItem.responsible), selectinload(WorkItem.reporter))


def _conditions(filters: Filters) -> list[sa.ColumnElement[bool]]:
    same = ("kind", "status", "priority", "parent_id", "responsible_id", "reporter_id")
    wanted = {name: value for name in same if (value := getattr(filters, name)) is not None}
    conditions: list[sa.ColumnElement[bool]] = [getattr(WorkItem, name) == value for name, value in wanted.items()]
    if filters.kinds is not None:
        conditions.append(WorkItem.kind.in_(filters.kinds))
    if filters.within_id is not None:
        conditions.append(_within(filters.within_id))
    if filters.due_before is not None:
        conditions += [WorkItem.due_date < filters.due_before, WorkItem.status != WorkStatus.DONE]
    if filters.text:
        conditions.append(_contains(filters.text))
    return conditions


def _within(item_id: int) -> sa.ColumnElement[bool]:
    part = aliased(WorkItem)
    parts = sa.select(part.id).where(part.parent_id == item_id)
    return sa.or_(WorkItem.parent_id == item_id, WorkItem.parent_id.in_(parts))


def _contains(text: str) -> sa.ColumnElement[bool]:
    matches = [WorkItem.title.icontains(text, autoescape=True), WorkItem.description.icontains(text, autoescape=True)]
    number = text.removeprefix("#")
    if number.isascii() and number.isdigit() and len(number) <= 9:
        matches.append(WorkItem.id == int(number))
    return sa.or_(*matches)
