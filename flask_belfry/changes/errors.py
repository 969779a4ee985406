"""Errors of change tracking."""

from __future__ import annotations

from flask_belfry.core.errors import AppError, InvalidInputError


class HookError(AppError):
    """A hook is declared on a model or column that cannot be tracked, or a write would bypass a hook."""

    status = 500


class ActorError(InvalidInputError):
    """A request's id or IP address cannot be recorded."""
