"""Deletes old statistics."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.statistics.models import FailureGroup, QueueSample, Resolution
from flask_belfry.statistics.roll_up import BACKFILL, complete_until, sources
from flask_belfry.statistics.times import hour_of

# How long rows are kept, and of how much time a page deletes them: some thousand rows.
KEEP = {
    Resolution.MINUTE: (timedelta(days=2), timedelta(minutes=10)),
    Resolution.HOUR: (timedelta(days=90), timedelta(hours=6)),
}
KEEP_SAMPLES = (timedelta(days=8), timedelta(hours=6))
KEEP_GROUPS = timedelta(days=90)


def prune_statistics_pages(session: Session) -> Iterator[int]:
    """Delete old counts, samples, and groups of failures that were not seen for long.

    It deletes a page and returns the number of its rows; the caller commits each page.
    """
    now = utc_now()
    models: list[Any] = [source.model for source in sources()]
    for counted in dict.fromkeys(models):
        # Later minutes are not added up yet: after a downtime they may be older than minutes are kept.
        complete = complete_until(session, *(source.name for source in sources() if source.model is counted))
        added_up_until = hour_of(complete or now - BACKFILL)
        for resolution, (keep, span) in KEEP.items():
            before = min(now - keep, added_up_until) if resolution is Resolution.MINUTE else now - keep
            yield from _prune(session, counted, before, span, counted.resolution == resolution)
    keep, span = KEEP_SAMPLES
    yield from _prune(session, QueueSample, now - keep, span, sa.true())
    is_old = FailureGroup.last_seen_at < now - KEEP_GROUPS
    deleted: Any = session.execute(sa.delete(FailureGroup).where(is_old), execution_options=_NO_SYNC)
    yield deleted.rowcount


def _prune(
    session: Session, model: Any, before: datetime, span: timedelta, condition: sa.ColumnElement[bool]
) -> Iterator[int]:
    oldest = sa.select(sa.func.min(model.at)).where(condition)
    while (at := session.execute(oldest).scalar()) is not None and at < before:
        is_old = condition, model.at < min(before, at + span)
        deleted: Any = session.execute(sa.delete(model).where(*is_old), execution_options=_NO_SYNC)
        yield deleted.rowcount


_NO_SYNC: dict[str, Any] = {"synchronize_session": False}
