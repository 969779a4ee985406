"""What the API takes and gives of accounts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import marshmallow as ma
from marshmallow import validate

from app.accounts.models import Role


class LoginSchema(ma.Schema):
    """A login: one of username and email, and the password."""

    username = ma.fields.String(validate=validate.Length(1, 254))
    email = ma.fields.String(validate=validate.Length(1, 254))
    password = ma.fields.String(required=True, validate=validate.Length(1, 1_000))

    @ma.validates_schema
    def validate_login(self, data: Mapping[str, Any], **_: object) -> None:
        """Called with the loaded fields: exactly one of the two names the user."""
        if ("username" in data) == ("email" in data):
            raise ma.ValidationError({"username": ["Give username or email, one of them."]})


class UserSchema(ma.Schema):
    """A user, as they and staff see them."""

    id = ma.fields.Integer(required=True)
    username = ma.fields.String(required=True)
    email = ma.fields.Email(required=True)
    name = ma.fields.String(required=True)
    role = ma.fields.Enum(Role, by_value=True, required=True)
    time_zone = ma.fields.String(required=True, allow_none=True)
    created_at = ma.fields.AwareDateTime(format="iso", required=True)


class TokenSchema(ma.Schema):
    """The answer to a login."""

    access_token = ma.fields.String(required=True, metadata={"description": "Shown this once."})
    token_type = ma.fields.Constant("Bearer", required=True)
    expires_in = ma.fields.Integer(required=True, metadata={"description": "Seconds."})
    user = ma.fields.Nested(UserSchema, required=True)
