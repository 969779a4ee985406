"""Permissions for notifications, as rules for `app.accounts.can`. Every user reads their own inbox."""

from __future__ import annotations

from app.accounts import User, allow

SEND = "notifications.send"
VIEW = "notifications.view"
CANCEL = "notifications.cancel"
RETRY = "notifications.retry"


def declare() -> None:
    """Declare the rules; called once, when the slice is imported."""
    for action in (SEND, VIEW, CANCEL, RETRY):
        allow(action, _is_staff)


def _is_staff(user: User, _: object) -> bool:
    return user.is_staff
