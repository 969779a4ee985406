"""What the responses of FCM mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.push.errors import (
    DeviceGoneError,
    MessageRefusedError,
    PayloadRefusedError,
    PushCredentialsError,
    PushError,
    PushUnavailableError,
    ThrottledError,
)
from flask_belfry.execution import retry_after_seconds

# How long FCM asks to wait after 429 without Retry-After.
THROTTLE_SECONDS = 60.0
MIN_THROTTLE_SECONDS = 1.0
MAX_MESSAGE_CHARACTERS = 300
MAX_RETRY_AFTER_CHARACTERS = 50
# What errors show instead of the token, if FCM quotes it.
HIDDEN = "(the token)"
_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
TARGET_FIELDS = frozenset({"message.token", "message.fid"})


@dataclass(frozen=True)
class _Refusal:
    """The parts of an error response.

    Args:
        code: FCM's own code, such as UNREGISTERED; otherwise the general one, such as NOT_FOUND.
        message: one sentence of FCM.
        fields: the fields of the request that it finds invalid.
    """

    code: str
    message: str
    fields: frozenset[str]


def error_of(status: int, headers: Mapping[str, str], body: bytes, now: datetime, token: str) -> PushError:
    """Return the error that a response other than 200 to a message for `token` reports, without this token."""
    refusal = _read(body)
    retry_after = headers.get("Retry-After", "")[:MAX_RETRY_AFTER_CHARACTERS]
    asked = retry_after_seconds(retry_after, now)
    message = refusal.message.replace(token, HIDDEN)[:MAX_MESSAGE_CHARACTERS]
    # As it was sent: the wait may be shorter.
    header = f"(Retry-After: {retry_after}) " if asked is not None else ""
    said = f"FCM: {status} {refusal.code} {header}{message}".strip()
    if status == 429:
        return ThrottledError(said, THROTTLE_SECONDS if asked is None else max(asked, MIN_THROTTLE_SECONDS))
    if status >= 500:
        return PushUnavailableError(said, asked)
    if refusal.code in ("UNREGISTERED", "SENDER_ID_MISMATCH"):
        return DeviceGoneError(said)
    if status == 400:
        return _error_of_bad_request(refusal, said)
    if status in (401, 403, 404):  # 404 without UNREGISTERED: the project does not exist
        return PushCredentialsError(said)
    return MessageRefusedError(said)


def is_token_refused(status: int, body: bytes) -> bool:
    """Return whether the access token is not accepted any more. The key for APNs or web push may be refused with the
    same status."""
    return status == 401 and _read(body).code != "THIRD_PARTY_AUTH_ERROR"


def _error_of_bad_request(refusal: _Refusal, said: str) -> PushError:
    # An invalid token comes with a sentence only, an invalid field with its name.
    if refusal.fields:
        fields = ", ".join(sorted(refusal.fields))
        is_target = refusal.fields <= TARGET_FIELDS
        return DeviceGoneError(said) if is_target else PayloadRefusedError(f"{said} ({fields})")
    if "registration token" in refusal.message or "installation" in refusal.message.lower():
        return DeviceGoneError(said)
    return PayloadRefusedError(said) if "too big" in refusal.message else MessageRefusedError(said)


def _read(body: bytes) -> _Refusal:
    try:
        error: Any = json.loads(body)["error"]
        details: list[Any] = [detail for detail in error.get("details", []) if isinstance(detail, dict)]
        codes = [detail.get("errorCode") for detail in details if detail.get("@type") == _FCM_ERROR]
        fields = [
            violation.get("field", "")
            for detail in details
            if detail.get("@type") == _BAD_REQUEST
            for violation in detail.get("fieldViolations", [])
        ]
        code = str((codes or [error.get("status", "")])[0])
        return _Refusal(code, str(error.get("message", "")), frozenset(filter(None, fields)))
    except (ValueError, KeyError, TypeError, AttributeError):  # an answer of a proxy, or of another server
        return _Refusal("", "", frozenset())
