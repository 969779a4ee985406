"""Errors of tracking changes."""

from __future__ import annotations

from flask_belfry.core.errors import AppError, InvalidInputError


class HookError(AppError):
    """A hook is declared on something that cannot be watched, or a write would have passed it by."""

    status = 500


class ActorError(InvalidInputError):
    """A request's id or IP address is longer than what can be recorded."""
