"""Push messages to the devices of users, by Firebase Cloud Messaging (FCM)."""

from __future__ import annotations

from flask import Flask

from app.push import hooks, personal
from app.push.client import NOT_CONFIGURED, check, is_configured, push_client
from app.push.errors import (
    DeviceGoneError,
    MessageRefusedError,
    PayloadRefusedError,
    PushCredentialsError,
    PushError,
    PushUnavailableError,
    ThrottledError,
)
from app.push.messages import PushMessage, is_reserved, shown_body
from app.push.models import Device, DeviceKind
from app.push.services import Target, drop_silent, forget, register, targets_of, users_with_devices

__all__ = [
    "NOT_CONFIGURED",
    "Device",
    "DeviceGoneError",
    "DeviceKind",
    "MessageRefusedError",
    "PayloadRefusedError",
    "PushCredentialsError",
    "PushError",
    "PushMessage",
    "PushUnavailableError",
    "Target",
    "ThrottledError",
    "check",
    "drop_silent",
    "forget",
    "hooks",
    "init_app",
    "is_configured",
    "is_reserved",
    "personal",
    "push_client",
    "register",
    "shown_body",
    "targets_of",
    "users_with_devices",
]


def init_app(app: Flask) -> None:
    """Add what the slice needs."""
