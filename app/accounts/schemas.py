"""The schemas of the API of accounts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import marshmallow as ma
from marshmallow import validate

from app.accounts.models import (
    MAX_EMAIL_CHARACTERS,
    MAX_NAME_CHARACTERS,
    MAX_TIME_ZONE_CHARACTERS,
    MAX_TOKEN_NAME_CHARACTERS,
    Role,
)
from app.accounts.validation import MAX_CODE_INPUT_CHARACTERS, MAX_PASSWORD_INPUT_CHARACTERS
from app.api import SCOPES
from app.api.web import Moment, Schema, check_control_characters

_LOGIN = validate.Length(1, MAX_EMAIL_CHARACTERS)
_PASSWORD = validate.Length(1, MAX_PASSWORD_INPUT_CHARACTERS)
_CODE = validate.Length(1, MAX_CODE_INPUT_CHARACTERS)
_TOKEN = validate.Length(1, 200)
_SECOND_FACTOR_CODE = {"description": "A code of the authenticator app or a recovery code, if a second factor is on."}


class LoginSchema(Schema):
    """A login: either username or email, and the password."""

    username = ma.fields.String(validate=_LOGIN)
    email = ma.fields.String(validate=_LOGIN)
    password = ma.fields.String(required=True, validate=_PASSWORD)
    code = ma.fields.String(
        validate=_CODE,
        metadata=_SECOND_FACTOR_CODE,
    )

    @ma.validates_schema
    def validate_login(self, data: Mapping[str, Any], **_: object) -> None:
        """Check that exactly one of username and email is given."""
        if ("username" in data) == ("email" in data):
            raise ma.ValidationError({"username": ["Send either username or email."]})


class RegistrationSchema(Schema):
    """A registration."""

    username = ma.fields.String(required=True, validate=_LOGIN)
    email = ma.fields.String(required=True, validate=_LOGIN)
    password = ma.fields.String(required=True, validate=_PASSWORD)


class CodeSchema(Schema):
    """An email address and the six-digit code of the mail sent to it."""

    email = ma.fields.String(required=True, validate=_LOGIN)
    code = ma.fields.String(required=True, validate=_CODE)


class EmailSchema(Schema):
    """The email address to send a mail to."""

    email = ma.fields.String(required=True, validate=_LOGIN)


class NewPasswordSchema(Schema):
    """The token at the end of the link in the mail, and the new password."""

    token = ma.fields.String(required=True, validate=_TOKEN)
    password = ma.fields.String(required=True, validate=_PASSWORD)


class UserSchema(Schema):
    """A user, as shown to the user and to staff."""

    id = ma.fields.Integer(required=True)
    username = ma.fields.String(required=True)
    email = ma.fields.Email(required=True)
    name = ma.fields.String(required=True)
    role = ma.fields.Enum(Role, by_value=True, required=True)
    may_operate = ma.fields.Boolean(
        required=True, metadata={"description": "Whether a member of staff may change the school's jobs and mails."}
    )
    time_zone = ma.fields.String(required=True, allow_none=True)
    is_confirmed = ma.fields.Boolean(
        required=True,
        metadata={"description": "Whether the email address is confirmed; most endpoints require it."},
    )
    created_at = ma.fields.AwareDateTime(format="iso", required=True)


class StrictBoolean(ma.fields.Boolean):
    """true or false; marshmallow's Boolean also accepts "yes", "off" and 1."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class ByKind(ma.fields.Dict):
    """A dictionary whose errors have the keys of the invalid entries."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        try:
            return super()._deserialize(value, attr, data, **kwargs)
        except ma.ValidationError as error:
            if not isinstance(error.messages, dict):
                raise
            messages = {kind: of_kind.get("value") or of_kind["key"] for kind, of_kind in error.messages.items()}
            raise ma.ValidationError(messages) from error


class ChannelsSchema(Schema):
    """Whether the user wants messages of a kind, by channel."""

    mail = ma.fields.Boolean(required=True)
    push = ma.fields.Boolean(required=True)


class ChannelChangesSchema(Schema):
    """Changes of the channels of a kind; absent channels do not change."""

    mail = StrictBoolean()
    push = StrictBoolean()


class ProfileSchema(UserSchema):
    """The user's own profile."""

    preferences = ma.fields.Dict(
        keys=ma.fields.String(),
        values=ma.fields.Nested(ChannelsSchema),
        required=True,
        metadata={"description": "By kind of message; all other kinds are always sent."},
    )
    skips_own_changes = ma.fields.Boolean(
        required=True, metadata={"description": "Whether the user is not notified of their own changes."}
    )


class ProfileChangesSchema(Schema):
    """Changes of the profile; absent fields do not change."""

    name = ma.fields.String(validate=validate.Length(1, MAX_NAME_CHARACTERS))
    time_zone = ma.fields.String(
        allow_none=True,
        validate=validate.Length(1, MAX_TIME_ZONE_CHARACTERS),
        metadata={"description": "An IANA name such as Europe/Berlin; null for the school's time zone."},
    )
    preferences = ByKind(
        keys=ma.fields.String(),
        values=ma.fields.Nested(ChannelChangesSchema),
        metadata={"description": "By kind of message, as in `GET /me`; absent kinds and channels do not change."},
    )
    skips_own_changes = ma.fields.Boolean(truthy={True}, falsy={False})


class ExportSchema(Schema):
    """All data about a user."""

    exported_at = ma.fields.AwareDateTime(format="iso", required=True)
    username = ma.fields.String(required=True)
    data = ma.fields.Dict(
        keys=ma.fields.String(), required=True, metadata={"description": "The data of each part of the application."}
    )


class DeletionSchema(Schema):
    """The proof of identity for the deletion of an account."""

    password = ma.fields.String(required=True, validate=_PASSWORD)
    code = ma.fields.String(
        validate=_CODE,
        metadata=_SECOND_FACTOR_CODE,
    )


class PairSchema(Schema):
    """A pair of tokens."""

    access_token = ma.fields.String(required=True, metadata={"description": "Shown once."})
    token_type = ma.fields.Constant("Bearer", required=True)
    expires_in = ma.fields.Integer(required=True, metadata={"description": "Lifetime of the access token in seconds."})
    refresh_token = ma.fields.String(required=True, metadata={"description": "Shown once; works once."})
    refresh_expires_in = ma.fields.Integer(
        required=True, metadata={"description": "Lifetime of the refresh token in seconds."}
    )
    user = ma.fields.Nested(UserSchema, required=True)


class MessageSchema(Schema):
    """The result as a message."""

    message = ma.fields.String(required=True)


class EmailInfoSchema(Schema):
    """The state of a mail at the time of the response. It is sent automatically in every case."""

    email_queued = ma.fields.Boolean(required=True, metadata={"description": "A worker is about to send it."})
    email_sent = ma.fields.Boolean(
        metadata={"description": "Without a broker: whether the mail server has accepted it."}
    )
    message = ma.fields.String()
    error = ma.fields.String(metadata={"description": "Why it has not been sent yet."})
    can_resend = ma.fields.Boolean(metadata={"description": "Whether to offer `POST /auth/resend-confirmation`."})


class RegisteredSchema(Schema):
    """The response to a registration."""

    access_token = ma.fields.String(required=True, metadata={"description": "Shown once."})
    refresh_token = ma.fields.String(required=True, metadata={"description": "Shown once."})
    token_type = ma.fields.Constant("Bearer", required=True)
    expires_in = ma.fields.Integer(required=True, metadata={"description": "Seconds."})
    refresh_expires_in = ma.fields.Integer(required=True, metadata={"description": "Seconds."})
    user_data = ma.fields.Nested(UserSchema, required=True)
    email_confirmation_sent = ma.fields.Boolean(required=True)
    message = ma.fields.String(required=True)
    email_info = ma.fields.Nested(EmailInfoSchema, required=True)


class RefreshSchema(Schema):
    """A refresh token."""

    refresh_token = ma.fields.String(required=True, validate=_TOKEN)


class NewPersonalTokenSchema(Schema):
    """A personal token to create."""

    name = ma.fields.String(
        required=True,
        validate=[validate.Length(1, MAX_TOKEN_NAME_CHARACTERS), check_control_characters],
        metadata={"description": "The purpose of the token."},
    )
    scopes = ma.fields.List(
        ma.fields.String(validate=validate.OneOf(SCOPES)),
        required=True,
        validate=validate.Length(1, len(SCOPES)),
        metadata={"description": "What the token allows; `write` includes `read`."},
    )
    expires_at = Moment(
        load_default=None,
        allow_none=True,
        metadata={"description": "A time in the future; if absent, the token works until it is revoked."},
    )


class PersonalTokenSchema(Schema):
    """A personal token, without the token itself."""

    id = ma.fields.Integer(required=True)
    name = ma.fields.String(required=True)
    scopes = ma.fields.List(ma.fields.String(), required=True)
    created_at = ma.fields.AwareDateTime(format="iso", required=True)
    expires_at = ma.fields.AwareDateTime(format="iso", required=True, allow_none=True)
    last_used_at = ma.fields.AwareDateTime(
        format="iso", required=True, allow_none=True, metadata={"description": "With a precision of one minute."}
    )


class ShownPersonalTokenSchema(PersonalTokenSchema):
    """A new personal token."""

    token = ma.fields.String(required=True, metadata={"description": "The token; shown once."})
