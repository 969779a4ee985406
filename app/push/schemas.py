"""The schemas of the API of devices."""

from __future__ import annotations

import marshmallow as ma
from marshmallow import validate

from app.api.web import Schema, check_control_characters
from app.push.models import MAX_DEVICE_NAME_CHARACTERS, MAX_TOKEN_CHARACTERS, DeviceKind


class NewDeviceSchema(Schema):
    """A device to register."""

    kind = ma.fields.Enum(
        DeviceKind,
        by_value=True,
        load_default=DeviceKind.TOKEN,
        metadata={"description": "`token` for a registration token, `fid` for a Firebase installation id."},
    )
    token = ma.fields.String(
        required=True,
        validate=validate.Length(1, MAX_TOKEN_CHARACTERS),
        metadata={"description": "The token or the installation id that the Firebase SDK has issued."},
    )
    name = ma.fields.String(
        load_default="",
        validate=[validate.Length(max=MAX_DEVICE_NAME_CHARACTERS), check_control_characters],
        metadata={"description": "Shown to the user, such as the model of the phone."},
    )


class DeviceSchema(Schema):
    """A device, without its token."""

    id = ma.fields.Integer(required=True)
    kind = ma.fields.Enum(DeviceKind, by_value=True, required=True)
    name = ma.fields.String(required=True)
    created_at = ma.fields.AwareDateTime(format="iso", required=True)
    last_seen_at = ma.fields.AwareDateTime(
        format="iso", required=True, metadata={"description": "When it was last registered."}
    )
