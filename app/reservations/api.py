"""API of reservations and resources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import url_for

from app.accounts import acting_user
from app.api.web import ApiBlueprint, QueryOfPage, check_stale, page_response, page_schema, versioned
from app.reservations import queries, services
from app.reservations.models import Reservation
from app.reservations.schemas import (
    NewReservationSchema,
    ReservationChangesSchema,
    ReservationQuery,
    ReservationSchema,
    ResourceSchema,
)
from flask_belfry.db import commit_and_keep, db

blueprint = ApiBlueprint("reservations", __name__, description="Reservations and resources", area="reservations")

ONE = "/reservations/<id:reservation_id>"


@blueprint.route("/reservations")
@blueprint.arguments(ReservationQuery, location="query")
@blueprint.response(200, page_schema(ReservationSchema))
def list_reservations(query: dict[str, Any]) -> Mapping[str, Any]:
    """List reservations, latest start first: all for staff, their own for customers"""
    limit, cursor = query.pop("limit"), query.pop("cursor")
    return page_response(queries.page(acting_user(), queries.Filters(**query), limit=limit, cursor=cursor))


@blueprint.route("/reservations", methods=["POST"])
@versioned
@blueprint.arguments(NewReservationSchema)
@blueprint.response(201, ReservationSchema)
@blueprint.alt_response(409, description="The resource is already booked at that time.")
def create_reservation(values: dict[str, Any]) -> tuple[Reservation, int, dict[str, str]]:
    """Create a pending reservation, which staff confirm or cancel"""
    reservation = services.create(acting_user(), **values)
    commit_and_keep()
    location = url_for("api_reservations.get_reservation", reservation_id=reservation.id)
    return reservation, 201, {"Location": location}


@blueprint.route(ONE)
@versioned
@blueprint.response(200, ReservationSchema)
def get_reservation(reservation_id: int) -> Reservation:
    """Get a reservation"""
    return queries.get(acting_user(), reservation_id)


@blueprint.route(ONE, methods=["PATCH"])
@versioned
@blueprint.arguments(ReservationChangesSchema)
@blueprint.response(200, ReservationSchema)
@blueprint.alt_response(409, description="The status does not allow the change, or the resource is already booked.")
def change_reservation(changes: dict[str, Any], reservation_id: int) -> Reservation:
    """Change fields and status of a reservation, all or nothing"""
    reservation = _lock(reservation_id)
    services.update(acting_user(), reservation, changes)
    commit_and_keep()
    return reservation


@blueprint.route(ONE, methods=["DELETE"])
@versioned
@blueprint.response(204)
def delete_reservation(reservation_id: int) -> None:
    """Delete a reservation, for staff; customers cancel theirs"""
    services.delete(acting_user(), _lock(reservation_id))
    db.session.commit()


@blueprint.route("/resources")
@blueprint.arguments(QueryOfPage, location="query")
@blueprint.response(200, page_schema(ResourceSchema))
def list_resources(query: dict[str, Any]) -> Mapping[str, Any]:
    """List resources that can be reserved, by id"""
    return page_response(queries.page_of_resources(**query))


def _lock(reservation_id: int) -> Reservation:
    """Load the row of a write with its lock, and check `If-Match` on it."""
    reservation = queries.get(acting_user(), reservation_id, for_update=True)
    check_stale(ReservationSchema, reservation)
    return reservation
