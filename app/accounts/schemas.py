"""What the API takes and gives of accounts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import marshmallow as ma
from marshmallow import validate

from app.accounts.models import MAX_TOKEN_NAME_CHARACTERS, Role
from app.accounts.validation import MAX_NAME_CHARACTERS
from app.api import SCOPES
from app.api.web import Moment, Schema, check_control_characters


class LoginSchema(Schema):
    """A login: one of username and email, and the password."""

    username = ma.fields.String(validate=validate.Length(1, 254))
    email = ma.fields.String(validate=validate.Length(1, 254))
    password = ma.fields.String(required=True, validate=validate.Length(1, 1_000))
    code = ma.fields.String(
        validate=validate.Length(1, 40),
        metadata={"description": "Of the authenticator app, or a recovery code, where the user has a second factor."},
    )

    @ma.validates_schema
    def validate_login(self, data: Mapping[str, Any], **_: object) -> None:
        """Called with the loaded fields: exactly one of the two names the user."""
        if ("username" in data) == ("email" in data):
            raise ma.ValidationError({"username": ["Give username or email, one of them."]})


class RegistrationSchema(Schema):
    """Who wants to join."""

    username = ma.fields.String(required=True, validate=validate.Length(1, 254))
    email = ma.fields.String(required=True, validate=validate.Length(1, 254))
    password = ma.fields.String(required=True, validate=validate.Length(1, 1_000))


class CodeSchema(Schema):
    """An address, and the six digits that a mail brought there."""

    email = ma.fields.String(required=True, validate=validate.Length(1, 254))
    code = ma.fields.String(required=True, validate=validate.Length(1, 20))


class AddressSchema(Schema):
    """An address to send a mail to."""

    email = ma.fields.String(required=True, validate=validate.Length(1, 254))


class NewPasswordSchema(Schema):
    """The end of the link that a mail brought, and a password."""

    token = ma.fields.String(required=True, validate=validate.Length(1, 200))
    password = ma.fields.String(required=True, validate=validate.Length(1, 1_000))


class UserSchema(Schema):
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


class StrictBoolean(ma.fields.Boolean):
    """true or false; marshmallow's own takes "yes", "off" and 1 too."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class ByKind(ma.fields.Dict):
    """A dictionary whose errors say which entry they are about, as those of fields do."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        try:
            return super()._deserialize(value, attr, data, **kwargs)
        except ma.ValidationError as error:
            if not isinstance(error.messages, dict):
                raise
            said = {kind: of_kind.get("value") or of_kind["key"] for kind, of_kind in error.messages.items()}
            raise ma.ValidationError(said) from error


class ChannelsSchema(Schema):
    """Whether messages of a kind are wanted, by channel."""

    mail = ma.fields.Boolean(required=True)
    push = ma.fields.Boolean(required=True)


class ChannelChangesSchema(Schema):
    """The same to change: what is absent stays."""

    mail = StrictBoolean()
    push = StrictBoolean()


class ProfileSchema(UserSchema):
    """A user, as only they see themselves."""

    preferences = ma.fields.Dict(
        keys=ma.fields.String(),
        values=ma.fields.Nested(ChannelsSchema),
        required=True,
        metadata={"description": "By kind of message; kinds that are not here always go out."},
    )
    skips_own_changes = ma.fields.Boolean(
        required=True, metadata={"description": "Whether they get no message of changes that they made themselves."}
    )


class ProfileChangesSchema(Schema):
    """Changes of oneself: what is absent stays."""

    name = ma.fields.String(validate=validate.Length(1, MAX_NAME_CHARACTERS))
    time_zone = ma.fields.String(
        allow_none=True,
        validate=validate.Length(1, 60),
        metadata={"description": "An IANA name, as Europe/Berlin; null: the school's."},
    )
    preferences = ByKind(
        keys=ma.fields.String(),
        values=ma.fields.Nested(ChannelChangesSchema),
        metadata={"description": "By kind of message, those of `GET /me`; kinds and channels that are absent stay."},
    )
    skips_own_changes = ma.fields.Boolean(truthy={True}, falsy={False})


class ExportSchema(Schema):
    """All that is kept of a user."""

    exported_at = ma.fields.AwareDateTime(format="iso", required=True)
    username = ma.fields.String(required=True)
    data = ma.fields.Dict(
        keys=ma.fields.String(), required=True, metadata={"description": "What each part of the application keeps."}
    )


class DeletionSchema(Schema):
    """Who deletes an account: proven again."""

    password = ma.fields.String(required=True, validate=validate.Length(1, 1_000))
    code = ma.fields.String(
        validate=validate.Length(1, 40),
        metadata={"description": "Of the authenticator app, or a recovery code, where the user has a second factor."},
    )


class PairSchema(Schema):
    """A pair of tokens."""

    access_token = ma.fields.String(required=True, metadata={"description": "Shown this once."})
    token_type = ma.fields.Constant("Bearer", required=True)
    expires_in = ma.fields.Integer(required=True, metadata={"description": "Seconds that the access token works."})
    refresh_token = ma.fields.String(required=True, metadata={"description": "Shown this once, works once."})
    refresh_expires_in = ma.fields.Integer(
        required=True, metadata={"description": "Seconds that the refresh token works."}
    )
    user = ma.fields.Nested(UserSchema, required=True)


class MessageSchema(Schema):
    """What happened, in words."""

    message = ma.fields.String(required=True)


class EmailInfoSchema(Schema):
    """What became of a mail by the time of the answer. It goes out by itself in every case."""

    email_queued = ma.fields.Boolean(required=True, metadata={"description": "A worker is about to send it."})
    email_sent = ma.fields.Boolean(metadata={"description": "The broker was away: whether the mail server has it."})
    message = ma.fields.String()
    error = ma.fields.String(metadata={"description": "Why it is not out yet."})
    can_resend = ma.fields.Boolean(metadata={"description": "Whether to offer `POST /auth/resend-confirmation`."})


class RegisteredSchema(Schema):
    """The answer to a registration."""

    access_token = ma.fields.String(required=True, metadata={"description": "Shown this once."})
    refresh_token = ma.fields.String(required=True, metadata={"description": "Shown this once."})
    token_type = ma.fields.Constant("Bearer", required=True)
    expires_in = ma.fields.Integer(required=True, metadata={"description": "Seconds."})
    refresh_expires_in = ma.fields.Integer(required=True, metadata={"description": "Seconds."})
    user_data = ma.fields.Nested(UserSchema, required=True)
    email_confirmation_sent = ma.fields.Boolean(required=True)
    message = ma.fields.String(required=True)
    email_info = ma.fields.Nested(EmailInfoSchema, required=True)


class RefreshSchema(Schema):
    """A refresh token to use."""

    refresh_token = ma.fields.String(required=True, validate=validate.Length(1, 200))


class NewPersonalTokenSchema(Schema):
    """A personal token to make."""

    name = ma.fields.String(
        required=True,
        validate=[validate.Length(1, MAX_TOKEN_NAME_CHARACTERS), check_control_characters],
        metadata={"description": "What it is for."},
    )
    scopes = ma.fields.List(
        ma.fields.String(validate=validate.OneOf(SCOPES)),
        required=True,
        validate=validate.Length(1, len(SCOPES)),
        metadata={"description": "What it may be used for; `write` includes `read`."},
    )
    expires_at = Moment(
        load_default=None,
        allow_none=True,
        metadata={"description": "In the future. Absent: it works until it is revoked."},
    )


class PersonalTokenSchema(Schema):
    """A personal token, without the token itself."""

    id = ma.fields.Integer(required=True)
    name = ma.fields.String(required=True)
    scopes = ma.fields.List(ma.fields.String(), required=True)
    created_at = ma.fields.AwareDateTime(format="iso", required=True)
    expires_at = ma.fields.AwareDateTime(format="iso", required=True, allow_none=True)
    last_used_at = ma.fields.AwareDateTime(
        format="iso", required=True, allow_none=True, metadata={"description": "To the minute."}
    )


class ShownPersonalTokenSchema(PersonalTokenSchema):
    """A personal token that was made now."""

    token = ma.fields.String(required=True, metadata={"description": "The token: shown this once."})
