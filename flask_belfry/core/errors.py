"""The family of errors that a person may see, and how each becomes an answer."""

from __future__ import annotations

from collections.abc import Mapping


class AppError(Exception):
    """Something the caller can mend. The message says what happened and what to do.

    Args:
        message: one sentence for the person who caused it.
        fields: messages by the name of the input field they belong to.
    """

    status = 400

    def __init__(self, message: str, fields: Mapping[str, list[str]] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fields = dict(fields or {})

    @property
    def for_operators(self) -> str:
        """All of it in one text, for the command line."""
        said = [f"{name}: {'; '.join(messages)}" for name, messages in self.fields.items()]
        return " · ".join([self.message, *said])


class InvalidInputError(AppError):
    """A value was refused: the field is named, with what it takes."""

    status = 422


class NotFoundError(AppError):
    """There is no such row, or it is not yours to see: the two must look the same."""

    status = 404


class ForbiddenError(AppError):
    """You are known, and this is not allowed to you."""

    status = 403


class ConflictError(AppError):
    """The row's present state does not admit this."""

    status = 409
