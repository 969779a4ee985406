"""The schema of errors, and the field of a row's id. `flask_belfry.schemas` has what all schemas share."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
from marshmallow import validate

from app.api.paths import MAX_ID
from flask_belfry.schemas import Schema


class ErrorSchema(Schema):
    """An error of the API."""

    code = ma.fields.Integer(required=True, metadata={"description": "The HTTP status code."})
    status = ma.fields.String(required=True, metadata={"description": "The name of the status code."})
    message = ma.fields.String(required=True, metadata={"description": "What happened and what to do."})
    errors = ma.fields.Dict(
        keys=ma.fields.String(),
        values=ma.fields.List(ma.fields.String()),
        required=True,
        metadata={"description": "Messages by field name."},
    )


def id_field(description: str, **options: Any) -> ma.fields.Integer:
    """Return a field for the id of a row: an integer within the range of the column."""
    return ma.fields.Integer(
        strict=True, validate=validate.Range(1, MAX_ID), metadata={"description": description}, **options
    )
