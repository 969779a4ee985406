"""The errors whose messages are shown to users, with their HTTP status codes."""

from __future__ import annotations

from collections.abc import Mapping


class AppError(Exception):
    """An error that its caller can correct. The message says what happened and what to do.

    Args:
        message: one sentence for the user.
        fields: messages by the name of their input field.
    """

    status = 400

    def __init__(self, message: str, fields: Mapping[str, list[str]] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fields = dict(fields or {})

    @property
    def for_operators(self) -> str:
        """The message and those of the fields in one text, for the command line."""
        said = [f"{name}: {'; '.join(messages)}" for name, messages in self.fields.items()]
        return " · ".join([self.message, *said])


class InvalidInputError(AppError):
    """A value is invalid: the error names its field and the valid values."""

    status = 422


class NotFoundError(AppError):
    """The row does not exist, or the user may not see it: both must look the same."""

    status = 404


class ForbiddenError(AppError):
    """The user is known and may not do this."""

    status = 403


class ConflictError(AppError):
    """The row's current state does not allow this."""

    status = 409


class StaleError(AppError):
    """The row has changed since the client read it."""

    status = 412
