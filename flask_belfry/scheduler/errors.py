"""Errors of the schedule."""

from __future__ import annotations

from flask_belfry.execution.errors import EngineError


class ScheduleError(EngineError):
    """An entry of the schedule is wrong."""
