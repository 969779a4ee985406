"""The JSON of a message, as FCM HTTP v1 reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.push.models import DeviceKind

# The longest that FCM keeps a message for a device that is offline.
MAX_KEEP = timedelta(days=28)
# FCM accepts 4,096 bytes of title, body and data. It does not say how it counts: a tenth is left to it.
MAX_BYTES = 3_700
ELLIPSIS = "…"
# Names of data that FCM keeps for itself, and beginnings of such names.
RESERVED_NAMES = frozenset({"from", "message_type", "notification"})
RESERVED_BEGINNINGS = ("google", "gcm")


@dataclass(frozen=True)
class PushMessage:
    """A message to devices.

    Args:
        id: a UUID. A device that is offline keeps the newest message of an id, and shows the newest one.
        title, body: what the device shows; a body that is too long is cut.
        data: for the application on the device, text by name.
        expires_at: when it is of no use any more; FCM keeps it no longer than that, and at most 28 days.
    """

    id: str
    title: str
    body: str
    data: Mapping[str, str]
    expires_at: datetime | None = None


def message_json(message: PushMessage, kind: DeviceKind, token: str, now: datetime) -> dict[str, Any]:
    """Return the body of a request that sends a message to one device."""
    key = message.id.replace("-", "")  # a web push topic has at most 32 characters
    expires_at = now + MAX_KEEP if message.expires_at is None else min(message.expires_at, now + MAX_KEEP)
    seconds = max(0, int((expires_at - now).total_seconds()))
    return {
        "message": {
            kind.value: token,
            "notification": {"title": message.title, "body": shown_body(message.title, message.body, message.data)},
            "data": dict(message.data),
            "android": {"ttl": f"{seconds}s", "collapse_key": key, "notification": {"tag": key}},
            "apns": {"headers": {"apns-expiration": str(int(expires_at.timestamp())), "apns-collapse-id": key}},
            "webpush": {"headers": {"TTL": str(seconds), "Topic": key}},
        }
    }


def is_reserved(name: str) -> bool:
    """Return whether FCM refuses data of this name."""
    return name in RESERVED_NAMES or name.startswith(RESERVED_BEGINNINGS)


def shown_body(title: str, body: str, data: Mapping[str, str]) -> str:
    """Return the body that fits a message beside its title and data, cut at its end."""
    room = MAX_BYTES - len(title.encode()) - _data_bytes(data)
    encoded = body.encode()
    if len(encoded) <= room:
        return body
    kept = encoded[: max(0, room - len(ELLIPSIS.encode()))]
    return kept.decode(errors="ignore") + ELLIPSIS  # without the half of a character


def _data_bytes(data: Mapping[str, str]) -> int:
    return sum(len(name.encode()) + len(value.encode()) for name, value in data.items())
