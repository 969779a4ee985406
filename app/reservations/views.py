"""The pages of reservations. Times are in the time zone of the reader."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from itertools import takewhile
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.accounts import acting_user, can
from app.history import is_unfinished
from app.reservations import queries, services
from app.reservations.day_grid import day_grid
from app.reservations.forms import ReservationForm
from app.reservations.history import history_for
from app.reservations.models import Reservation, ReservationStatus
from app.reservations.rules import following, status_action
from app.web.local_time import local_from_utc
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, InvalidInputError, NotFoundError
from flask_belfry.core.presentation import in_zone, reader_zone, span
from flask_belfry.core.text import query_text
from flask_belfry.db import commit_and_keep, db

pages = Blueprint("reservations", __name__, url_prefix="/reservations")

# The column of the day view for reservations without a resource.
NO_RESOURCE = "No resource"
# The time in the form of a new reservation.
FIRST_HOUR = time(9)
ID = "<id:reservation_id>"


@pages.get("/")
def list_() -> ResponseReturnValue:
    """Show the list, the next reservation first; its filters are in the URL."""
    shown = _shown_filters()
    page = queries.page_next_first(acting_user(), _filters(shown), cursor=request.args.get("cursor"))
    return render_template(
        "reservations/list.html",
        reservations=page.items,
        begun=len(list(takewhile(lambda row: row.start_time < utc_now(), reversed(page.items)))),
        next_cursor=page.next_cursor,
        statuses=[status.value for status in ReservationStatus],
        filters=shown,
        show_mine=can(acting_user(), "reservations.view_all"),
    )


@pages.route("/new", methods=["GET", "POST"])
def create() -> ResponseReturnValue:
    """Show and handle the form of a new reservation; `?date=` sets the day."""
    form = ReservationForm()
    form.offer(queries.active_resources(acting_user().school_id))
    if not can(acting_user(), "reservations.create_for_others"):
        del form.customer
    if request.method == "GET":
        day = _day_or_none(request.args.get("date", ""))
        form.start_time.data = datetime.combine(day, FIRST_HOUR) if day else None
    values = form.values(reader_zone()) if form.validate_on_submit() else None
    if values is None:
        return _form_page(form, None)
    try:
        reservation = services.create(acting_user(), **values)
    except (ConflictError, InvalidInputError) as error:
        form.take_errors(error.message, _problems(error))
        return _form_page(form, None)
    commit_and_keep()
    flash(_created_message(reservation), "success")
    return _to_detail(reservation.id)


@pages.get(f"/{ID}")
def detail(reservation_id: int) -> ResponseReturnValue:
    """Show a reservation with its actions and its history."""
    reservation = queries.get(acting_user(), reservation_id)
    return render_template(
        "reservations/detail.html",
        reservation=reservation,
        may_edit=reservation.is_open and can(acting_user(), "reservations.update", reservation),
        allowed_statuses=[
            status.value for status in following(reservation) if can(acting_user(), status_action(status), reservation)
        ],
        **_history_context(reservation),
    )


@pages.get(f"/{ID}/history")
def history(reservation_id: int) -> ResponseReturnValue:
    """Return only the history, which the page polls while jobs or mails are unfinished."""
    reservation = queries.get(acting_user(), reservation_id)
    return render_template("history/_history.html", **_history_context(reservation))


@pages.route(f"/{ID}/edit", methods=["GET", "POST"])
def edit(reservation_id: int) -> ResponseReturnValue:
    """Show and handle the form of an existing reservation."""
    reservation = queries.get(acting_user(), reservation_id, for_update=request.method == "POST")
    form = ReservationForm(data=_form_data(reservation))
    form.offer(queries.active_resources(reservation.school_id), reservation.resource)
    del form.customer
    values = form.values(reader_zone(), reservation) if form.validate_on_submit() else None
    if values is None:
        return _form_page(form, reservation)
    try:
        services.update(acting_user(), reservation, values)
    except (ConflictError, InvalidInputError) as error:
        form.take_errors(error.message, _problems(error))
        return _form_page(form, reservation)
    db.session.commit()
    flash("Saved.", "success")
    return _to_detail(reservation_id)


@pages.post(f"/{ID}/status")
def set_status(reservation_id: int) -> ResponseReturnValue:
    """Set the status, if the current one is still `expected_status`, which the user saw."""
    status, expected = request.form.get("status", ""), request.form.get("expected_status") or None
    reservation = queries.get(acting_user(), reservation_id, for_update=True)
    try:
        services.set_status(acting_user(), reservation, status, expected=expected)
    except ConflictError as error:
        db.session.rollback()
        flash(error.message, "error")
    else:
        db.session.commit()
        flash(f"Reservation #{reservation_id} is {status}.", "success")
    return _to_detail(reservation_id)


@pages.get("/day/<date>")
def day(date: str) -> ResponseReturnValue:
    """Show a day, one column for each resource. `date` is an ISO date."""
    shown, zone = _parse_day(date), reader_zone()
    today = in_zone(utc_now(), zone).date()
    columns: dict[str, list[Any]] = {resource.name: [] for resource in queries.active_resources()}
    reservations = queries.of_day(acting_user(), shown, zone)
    for reservation in reservations:
        name = reservation.resource.name if reservation.resource else NO_RESOURCE
        columns.setdefault(name, []).append(reservation)
    for taken in queries.taken_by_others(acting_user(), shown, zone):
        columns[taken.resource_name].append(taken)
    return render_template(
        "reservations/day.html",
        day=shown,
        previous_day=shown - timedelta(days=1),
        next_day=shown + timedelta(days=1),
        is_today=shown == today,
        count=len(reservations),
        sees_all=can(acting_user(), "reservations.view_all"),
        grid=day_grid(columns, shown, zone, now=utc_now()),
    )


def _shown_filters() -> dict[str, Any]:
    """Return the filters as the page shows them; invalid values are ignored, as on every page."""
    status = request.args.get("status")
    return {
        "status": status if status in list(ReservationStatus) else None,
        "date_from": _day_or_none(request.args.get("date_from", "")),
        "date_to": _day_or_none(request.args.get("date_to", "")),
        "text": query_text("text"),
        "mine": request.args.get("mine") == "1",
    }


def _filters(shown: dict[str, Any]) -> queries.Filters:
    zone = reader_zone()
    return queries.Filters(
        status=shown["status"],
        customer_id=acting_user().id if shown["mine"] else None,
        starts_from=queries.day_span(shown["date_from"], zone)[0] if shown["date_from"] else None,
        starts_before=queries.day_span(shown["date_to"], zone)[1] if shown["date_to"] else None,
        text=shown["text"],
    )


def _day_or_none(text: str) -> date | None:
    try:
        day = date.fromisoformat(text)
        # The page links the days around it, and time zones add a day: both must exist in the calendar.
        return day + timedelta(days=2) - timedelta(days=4) + timedelta(days=2)
    except (ValueError, OverflowError):
        return None


def _parse_day(text: str) -> date:
    day = _day_or_none(text)
    if day is None:
        raise NotFoundError(f"Invalid date {text!r}; use YYYY-MM-DD.")
    return day


def _problems(error: ConflictError | InvalidInputError) -> Mapping[str, list[str]]:
    """Return the errors by field, with times in the time zone of the reader."""
    if isinstance(error, services.ResourceTakenError) and error.booked:
        name, start_time, end_time = error.booked
        return {**error.fields, "start_time": [f"{name} is already booked: {span(start_time, end_time)}."]}
    return error.fields


def _created_message(reservation: Reservation) -> str:
    if not can(acting_user(), "reservations.create_for_others"):
        return "Reservation requested: the school will confirm or cancel it."
    if reservation.customer_id == acting_user().id:
        return "Reservation created. It is pending until it is confirmed."
    return f"Reservation for {reservation.customer.name} created. It is pending until it is confirmed."


def _form_data(reservation: Reservation) -> dict[str, Any]:
    return {
        "start_time": local_from_utc(reservation.start_time, reader_zone()),
        "duration_minutes": reservation.duration_minutes,
        "resource": str(reservation.resource_id or ""),
        "party_size": reservation.party_size,
        "note": reservation.note,
    }


def _form_page(form: ReservationForm, reservation: Reservation | None) -> ResponseReturnValue:
    status = 422 if request.method == "POST" else 200
    return render_template("reservations/form.html", form=form, reservation=reservation), status


def _history_context(reservation: Reservation) -> dict[str, Any]:
    entries = history_for(acting_user(), reservation)
    return {
        "history": entries,
        "is_unfinished": is_unfinished(entries),
        "history_url": url_for("reservations.history", reservation_id=reservation.id),
    }


def _to_detail(reservation_id: int) -> ResponseReturnValue:
    return redirect(url_for("reservations.detail", reservation_id=reservation_id), 303)
