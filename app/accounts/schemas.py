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


class RegistrationSchema(ma.Schema):
    """Who wants to join."""

    username = ma.fields.String(required=True, validate=validate.Length(1, 254))
    email = ma.fields.String(required=True, validate=validate.Length(1, 254))
    password = ma.fields.String(required=True, validate=validate.Length(1, 1_000))


class CodeSchema(ma.Schema):
    """An address, and the six digits that a mail brought there."""

    email = ma.fields.String(required=True, validate=validate.Length(1, 254))
    code = ma.fields.String(required=True, validate=validate.Length(1, 20))


class AddressSchema(ma.Schema):
    """An address to send a mail to."""

    email = ma.fields.String(required=True, validate=validate.Length(1, 254))


class NewPasswordSchema(ma.Schema):
    """The end of the link that a mail brought, and a password."""

    token = ma.fields.String(required=True, validate=validate.Length(1, 200))
    password = ma.fields.String(required=True, validate=validate.Length(1, 1_000))


class UserSchema(ma.Schema):
    """A user, as they and staff see them."""

    id = ma.fields.Integer(required=True)
    username = ma.fields.String(required=True)
    email = ma.fields.Email(required=True)
    name = ma.fields.String(required=True)
    role = ma.fields.Enum(Role, by_value=True, required=True)
    time_zone = ma.fields.String(required=True, allow_none=True)
    is_confirmed = ma.fields.Boolean(
        required=True, metadata={"description": "Whether the address is; until then, next to nothing is allowed."}
    )
    created_at = ma.fields.AwareDateTime(format="iso", required=True)


class TokenSchema(ma.Schema):
    """The answer to a login."""

    access_token = ma.fields.String(required=True, metadata={"description": "Shown this once."})
    token_type = ma.fields.Constant("Bearer", required=True)
    expires_in = ma.fields.Integer(required=True, metadata={"description": "Seconds."})
    user = ma.fields.Nested(UserSchema, required=True)


class MessageSchema(ma.Schema):
    """What happened, in words."""

    message = ma.fields.String(required=True)


class EmailInfoSchema(ma.Schema):
    """What became of a mail by the time of the answer. It goes out by itself in every case."""

    email_queued = ma.fields.Boolean(required=True, metadata={"description": "A worker is about to send it."})
    email_sent = ma.fields.Boolean(metadata={"description": "The broker was away: whether the mail server has it."})
    message = ma.fields.String()
    error = ma.fields.String(metadata={"description": "Why it is not out yet."})
    can_resend = ma.fields.Boolean(metadata={"description": "Whether to offer `POST /auth/resend-confirmation`."})


class RegisteredSchema(ma.Schema):
    """The answer to a registration."""

    access_token = ma.fields.String(required=True, metadata={"description": "Shown this once."})
    refresh_token = ma.fields.String(required=True, metadata={"description": "Shown this once."})
    token_type = ma.fields.Constant("Bearer", required=True)
    expires_in = ma.fields.Integer(required=True, metadata={"description": "Seconds."})
    user_data = ma.fields.Nested(UserSchema, required=True)
    email_confirmation_sent = ma.fields.Boolean(required=True)
    message = ma.fields.String(required=True)
    email_info = ma.fields.Nested(EmailInfoSchema, required=True)
