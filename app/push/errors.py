"""Why FCM did not accept a message, and whom that concerns: a device, a notification, the project, or FCM itself."""

from __future__ import annotations


class PushError(Exception):
    """A message was not accepted. The text has neither a token nor the message's own text."""


class DeviceGoneError(PushError):
    """FCM does not deliver to this device any more: it is to be forgotten."""


class PayloadRefusedError(PushError):
    """FCM refuses the content of the message, whichever device it is sent to."""


class MessageRefusedError(PushError):
    """FCM refuses the message to this device, and does not say that the device or the content is at fault."""


class ThrottledError(PushError):
    """The project sends more than FCM allows; nothing may be sent for `retry_after_seconds`."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class PushUnavailableError(PushError):
    """FCM did not respond, or cannot accept messages now. `retry_after_seconds` is how long it asks to wait, if so."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class PushCredentialsError(PushError):
    """The credentials are unusable, or do not allow what was asked: someone must correct them."""
