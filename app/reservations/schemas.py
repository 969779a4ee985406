"""Schemas of reservations in the API."""

from __future__ import annotations

import marshmallow as ma
from marshmallow import validate

from app.api import MAX_ID
from app.api.web import Moment, QueryOfPage, Schema, check_control_characters, id_field
from app.reservations.models import (
    DEFAULT_DURATION_MINUTES,
    MAX_DURATION_MINUTES,
    MAX_NOTE_CHARACTERS,
    MAX_PARTY_SIZE,
    MIN_DURATION_MINUTES,
    ReservationStatus,
)


class ReservationFields(Schema):
    """Fields that clients set."""

    start_time = Moment(metadata={"description": "ISO 8601 with an offset."})
    duration_minutes = ma.fields.Integer(
        strict=True, validate=validate.Range(MIN_DURATION_MINUTES, MAX_DURATION_MINUTES)
    )
    resource_id = id_field("The resource to reserve.", allow_none=True)
    party_size = ma.fields.Integer(strict=True, validate=validate.Range(1, MAX_PARTY_SIZE))
    note = ma.fields.String(validate=[validate.Length(max=MAX_NOTE_CHARACTERS), check_control_characters])


class NewReservationSchema(ReservationFields):
    """A new reservation; only `start_time` is required."""

    start_time = Moment(
        required=True,
        metadata={"description": "ISO 8601 with an offset; in the future, except for staff."},
    )
    duration_minutes = ma.fields.Integer(
        strict=True,
        load_default=DEFAULT_DURATION_MINUTES,
        validate=validate.Range(MIN_DURATION_MINUTES, MAX_DURATION_MINUTES),
    )
    customer_id = id_field("Customer, for staff only; default: the user of the token.", allow_none=True)


class ReservationChangesSchema(ReservationFields):
    """Changes; absent fields keep their values."""

    status = ma.fields.Enum(ReservationStatus, by_value=True)


class ReservationSchema(Schema):
    """A reservation."""

    id = ma.fields.Integer(required=True)
    customer_id = ma.fields.Integer(required=True)
    resource_id = ma.fields.Integer(required=True, allow_none=True)
    start_time = ma.fields.AwareDateTime(format="iso", required=True)
    end_time = ma.fields.AwareDateTime(format="iso", required=True)
    duration_minutes = ma.fields.Integer(required=True)
    party_size = ma.fields.Integer(required=True)
    note = ma.fields.String(required=True)
    status = ma.fields.Enum(ReservationStatus, by_value=True, required=True)
    created_at = ma.fields.AwareDateTime(format="iso", required=True)
    updated_at = ma.fields.AwareDateTime(format="iso", required=True)


class ReservationQuery(QueryOfPage):
    """Filters of the list."""

    status = ma.fields.Enum(ReservationStatus, by_value=True)
    customer_id = ma.fields.Integer(validate=validate.Range(1, MAX_ID))
    resource_id = ma.fields.Integer(validate=validate.Range(1, MAX_ID))
    starts_from = Moment()
    starts_before = Moment(metadata={"description": "Exclusive."})
    text = ma.fields.String(
        validate=[validate.Length(1, 100), check_control_characters],
        metadata={"description": "Text in the name or email address of the customer or in the note, or the id."},
    )


class ResourceSchema(Schema):
    """A resource that can be reserved."""

    id = ma.fields.Integer(required=True)
    name = ma.fields.String(required=True)
    capacity = ma.fields.Integer(required=True)
