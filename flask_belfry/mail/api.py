"""The API of mails: the application makes the blueprint, and `add_endpoints` adds the endpoints to it.

Each of them asks the host whether the requester may do its action, before it reads the request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import marshmallow as ma
from flask_smorest import Blueprint
from marshmallow import validate

from flask_belfry.changes.host import authorized
from flask_belfry.mail import suppressions
from flask_belfry.mail.fields import suppression_fields
from flask_belfry.mail.models import EMAIL_CHARACTERS, SuppressionSource
from flask_belfry.mail.suppressions import CHANGE, REASON_CHARACTERS
from flask_belfry.schemas import QueryOfPage, Schema, check_control_characters, page_response, page_schema

View = Callable[..., Any]

VIEW = "mails.view"


class SuppressionQuery(QueryOfPage):
    """The query parameters of the list."""

    text = ma.fields.String(
        validate=validate.Length(max=EMAIL_CHARACTERS), metadata={"description": "The beginning of an email address."}
    )


class SuppressionSchema(Schema):
    """A suppressed email address."""

    id = ma.fields.UUID(required=True)
    email = ma.fields.String(required=True)
    status_code = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "The enhanced status code (RFC 3463) of the refusal."}
    )
    reason = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "The server's reply, or the reason of an admin."}
    )
    source = ma.fields.String(required=True, validate=validate.OneOf([source.value for source in SuppressionSource]))
    created_at = ma.fields.String(required=True, metadata={"format": "date-time"})
    mail_id = ma.fields.UUID(required=True, allow_none=True, metadata={"description": "The mail that was refused."})
    created_by = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "The name of the admin who added it."}
    )


class NewSuppressionSchema(Schema):
    """An email address to suppress."""

    email = ma.fields.String(required=True, validate=[validate.Length(1, EMAIL_CHARACTERS), check_control_characters])
    reason = ma.fields.String(
        load_default=None,
        allow_none=True,
        validate=[validate.Length(max=REASON_CHARACTERS), check_control_characters],
        metadata={"description": "Shown to users."},
    )


def add_endpoints(blueprint: Blueprint) -> None:
    """Add the endpoints to a blueprint of the application. The host authorizes `mails.view` and `mails.suppress`."""
    all_, one = "/mails/suppressions", "/mails/suppressions/<uuid:suppression_id>"
    listed: View = blueprint.response(200, page_schema(SuppressionSchema))(list_suppressions)
    listed = blueprint.arguments(SuppressionQuery, location="query")(listed)
    added: View = blueprint.response(201, SuppressionSchema)(add_suppression)
    added = blueprint.arguments(NewSuppressionSchema)(added)
    added = blueprint.alt_response(409, description="It is suppressed already.")(added)
    lifted: View = blueprint.response(204)(lift_suppression)
    blueprint.route(all_, methods=["GET"])(authorized(VIEW)(listed))
    blueprint.route(all_, methods=["POST"])(authorized(CHANGE)(added))
    blueprint.route(one, methods=["DELETE"])(authorized(CHANGE)(lifted))


def list_suppressions(query: dict[str, Any]) -> Mapping[str, Any]:
    """List the suppressed email addresses, newest first"""
    page = suppressions.find_suppressions(**query)
    return {**page_response(page), "items": [suppression_fields(row) for row in page.items]}


def add_suppression(values: dict[str, Any]) -> Mapping[str, Any]:
    """Suppress an email address: it gets no mail until the suppression is lifted"""
    return suppression_fields(suppressions.add_suppression(**values))


def lift_suppression(suppression_id: UUID) -> None:
    """Lift a suppression: the email address gets mail again"""
    suppressions.lift_suppression(suppressions.get_suppression(suppression_id))
