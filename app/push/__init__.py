"""Push messages to the devices of users, by Firebase Cloud Messaging (FCM)."""

from __future__ import annotations

from flask import Flask

from app.push.models import Device, DeviceKind

__all__ = [
    "Device",
    "DeviceKind",
    "init_app",
]


def init_app(app: Flask) -> None:
    """Add what the slice needs."""
