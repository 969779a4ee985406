"""Statistics: what the history amounts to, by minute and by hour, so that pages need not read the history."""

from __future__ import annotations

from flask_belfry.statistics.failures import on_failure_groups
from flask_belfry.statistics.models import (
    ALL_ID,
    SYSTEM_ID,
    Counted,
    FailureCount,
    FailureGroup,
    FailureState,
    JobStatistics,
    JobTotals,
    QueueSample,
    Release,
    Resolution,
    RollUp,
    columns_of_totals,
    measures,
)
from flask_belfry.statistics.pruning import prune_statistics_pages
from flask_belfry.statistics.queues import sample_queues
from flask_belfry.statistics.roll_up import Source, add_source, roll_up_pages, roll_up_source, rows_of_minutes, sources

__all__ = [
    "ALL_ID",
    "SYSTEM_ID",
    "Counted",
    "FailureCount",
    "FailureGroup",
    "FailureState",
    "JobStatistics",
    "JobTotals",
    "QueueSample",
    "Release",
    "Resolution",
    "RollUp",
    "Source",
    "add_source",
    "columns_of_totals",
    "measures",
    "on_failure_groups",
    "prune_statistics_pages",
    "roll_up_pages",
    "roll_up_source",
    "rows_of_minutes",
    "sample_queues",
    "sources",
]
