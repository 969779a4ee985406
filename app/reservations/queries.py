"""Queries of reservations. Each one is limited to the rows that the user may see: of others' reservations a customer
sees only the booked times of resources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import selectinload

from app.accounts import User, can
from app.reservations.models import MAX_DURATION_MINUTES, Reservation, ReservationStatus, Resource, as_status
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.columns import MAX_INTEGER
from flask_belfry.db.pagination import DEFAULT_LIMIT, Page, page_by_key

LIST_KEY = (Reservation.start_time, Reservation.id)
# The two parts of the list: not begun, and begun.
NEXT, BEGUN = "next", "begun"


@dataclass(frozen=True)
class Filters:
    """Filters of a list of reservations.

    Args:
        status: one status.
        customer_id, resource_id: of one customer, of one resource.
        starts_from, starts_before: aware times; the second is exclusive.
        text: in the name or email address of the customer or in the note, or the id.
    """

    status: str | None = None
    customer_id: int | None = None
    resource_id: int | None = None
    starts_from: datetime | None = None
    starts_before: datetime | None = None
    text: str | None = None


@dataclass(frozen=True)
class TakenSpan:
    """A time at which another customer has booked a resource, without their name and note."""

    resource_name: str
    start_time: datetime
    end_time: datetime


def visible_to(user: User) -> sa.Select[Reservation]:
    """Return the query of the reservations that `user` may see: all for staff, their own for customers."""
    query = sa.select(Reservation)
    return query if can(user, "reservations.view_all") else query.where(Reservation.customer_id == user.id)


def get(user: User, reservation_id: int, *, for_update: bool = False) -> Reservation:
    """Return a reservation that `user` may see.

    Args:
        user: the reader.
        reservation_id: id of the reservation.
        for_update: lock the row until the commit, and read its current values.

    Raises:
        NotFoundError: the reservation does not exist, or the user may not see it.
    """
    query = visible_to(user).where(Reservation.id == reservation_id)
    if for_update:
        query = query.with_for_update().execution_options(populate_existing=True)
    found = db.session.scalar(query)
    if found is None:
        raise NotFoundError(f"Reservation #{reservation_id} does not exist.")
    return found


def page_next_first(
    user: User, filters: Filters, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[Reservation]:
    """Return one page like `page`, the next reservation first; after the last one those that have begun, latest first.

    The cursor contains the time of the first page, so that rows that begin meanwhile are neither repeated nor skipped.
    """
    splits_at, part, inner = _read_split_cursor(cursor) if cursor else (utc_now(), NEXT, None)
    found: list[Reservation] = []
    if part == NEXT:
        upcoming = _loaded(visible_to(user).where(*_conditions(filters), Reservation.start_time >= splits_at))
        shown = page_by_key(db.session(), upcoming, LIST_KEY, limit=limit, cursor=inner, descending=False)
        if shown.next_cursor:
            return Page(shown.items, _split_cursor(splits_at, NEXT, shown.next_cursor))
        found, inner = list(shown.items), None
    begun = _loaded(visible_to(user).where(*_conditions(filters), Reservation.start_time < splits_at))
    rest = limit - len(found)
    # On a full page, one row shows whether there is a next page.
    shown = page_by_key(db.session(), begun, LIST_KEY, limit=rest or 1, cursor=inner)
    if not rest:
        return Page(found, _split_cursor(splits_at, BEGUN, "") if shown.items else None)
    next_cursor = _split_cursor(splits_at, BEGUN, shown.next_cursor) if shown.next_cursor else None
    return Page([*found, *shown.items], next_cursor)


def page(user: User, filters: Filters, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[Reservation]:
    """Return one page, latest start first, with customers and resources: three queries in all."""
    query = _loaded(visible_to(user).where(*_conditions(filters)))
    return page_by_key(db.session(), query, LIST_KEY, limit=limit, cursor=cursor)


def of_day(user: User, day: date, zone: ZoneInfo) -> Sequence[Reservation]:
    """Return the visible reservations of a day in `zone`, in order of time, without cancelled ones."""
    return taking_place(visible_to(user), day, zone)


def taken_by_others(user: User, day: date, zone: ZoneInfo) -> Sequence[TakenSpan]:
    """Return the times that others have booked on a day in `zone`, for customers; staff see the reservations."""
    if can(user, "reservations.view_all"):
        return []
    query = (
        sa.select(Resource.name, Reservation.start_time, Reservation.end_time)
        .join(Reservation.resource)
        .where(*_takes_place(day, zone), Reservation.customer_id != user.id, Resource.active)
        .order_by(*LIST_KEY)
    )
    return [TakenSpan(*row) for row in db.session.execute(query)]


def taking_place(query: sa.Select[Reservation], day: date, zone: ZoneInfo) -> Sequence[Reservation]:
    """Return the rows of a query that overlap a day in `zone` and are not cancelled."""
    scoped = query.where(*_takes_place(day, zone)).order_by(*LIST_KEY)
    return db.session.scalars(_loaded(scoped)).all()


def day_span(day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Return the start of a day and of the next day in `zone`, in UTC.

    Raises:
        InvalidInputError: the day is at the limit of the calendar.
    """
    try:
        begin, end = (datetime.combine(each, time(), zone) for each in (day, day + timedelta(days=1)))
        return begin.astimezone(UTC), end.astimezone(UTC)
    except OverflowError as error:
        raise InvalidInputError("This date is outside the calendar.", {"date": ["is beyond the calendar"]}) from error


def active_resources(school_id: int | None = None) -> Sequence[Resource]:
    """Return active resources by name; `school_id` limits those of an admin to one school."""
    query = sa.select(Resource).where(Resource.active).order_by(Resource.name)
    return db.session.scalars(query if school_id is None else query.where(Resource.school_id == school_id)).all()


def page_of_resources(limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[Resource]:
    """Return one page of active resources, by id."""
    query = sa.select(Resource).where(Resource.active)
    return page_by_key(db.session(), query, (Resource.id,), limit=limit, cursor=cursor, descending=False)


def _loaded(query: sa.Select[Reservation]) -> sa.Select[Reservation]:
    # Not joined: the planner of SQLite would start with the users and sort all rows.
    return query.options(selectinload(Reservation.customer), selectinload(Reservation.resource))


def _split_cursor(splits_at: datetime, part: str, inner: str) -> str:
    return f"{splits_at.timestamp():.6f}~{part}~{inner}"


def _read_split_cursor(cursor: str) -> tuple[datetime, str, str | None]:
    try:
        moment, part, inner = cursor.split("~")
        splits_at = datetime.fromtimestamp(float(moment), UTC)
        if part not in (NEXT, BEGUN):
            raise ValueError(part)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInputError(
            "This page of the list does not exist.", {"cursor": ["must be the next_cursor of the previous page"]}
        ) from error
    return splits_at, part, inner or None


def _takes_place(day: date, zone: ZoneInfo) -> list[sa.ColumnElement[bool]]:
    begin, end = day_span(day, zone)
    return [
        Reservation.start_time < end,
        # For the index: no reservation lasts longer.
        Reservation.start_time >= begin - timedelta(minutes=MAX_DURATION_MINUTES),
        Reservation.end_time > begin,
        Reservation.status != ReservationStatus.CANCELLED,
    ]


def _conditions(filters: Filters) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if filters.status:
        conditions.append(Reservation.status == as_status(filters.status))
    if filters.customer_id is not None:
        conditions.append(Reservation.customer_id == filters.customer_id)
    if filters.resource_id is not None:
        conditions.append(Reservation.resource_id == filters.resource_id)
    if filters.starts_from is not None:
        conditions.append(Reservation.start_time >= filters.starts_from)
    if filters.starts_before is not None:
        conditions.append(Reservation.start_time < filters.starts_before)
    if filters.text:
        conditions.append(_matches(filters.text))
    return conditions


def _matches(text: str) -> sa.ColumnElement[bool]:
    customers = sa.select(User.id).where(
        sa.or_(User.name.icontains(text, autoescape=True), User.email.icontains(text, autoescape=True))
    )
    found = sa.or_(Reservation.customer_id.in_(customers), Reservation.note.icontains(text, autoescape=True))
    number = text.removeprefix("#")
    if number.isdecimal() and number.isascii() and int(number) <= MAX_INTEGER:
        found = sa.or_(found, Reservation.id == int(number))
    return found
