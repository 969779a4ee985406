"""Statistics: what the history amounts to, by minute and by hour, so that pages need not read the history."""

from __future__ import annotations

from flask_belfry.statistics.models import (
    SYSTEM_ID,
    Counted,
    FailureCount,
    FailureGroup,
    FailureState,
    JobStatistics,
    QueueSample,
    Release,
    Resolution,
    RollUp,
)

__all__ = [
    "SYSTEM_ID",
    "Counted",
    "FailureCount",
    "FailureGroup",
    "FailureState",
    "JobStatistics",
    "QueueSample",
    "Release",
    "Resolution",
    "RollUp",
]
