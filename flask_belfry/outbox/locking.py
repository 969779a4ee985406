"""Skips rows that an open transaction has locked."""

from __future__ import annotations

import sqlalchemy as sa

from flask_belfry.outbox.models import JobRecord


def unlocked(*conditions: sa.ColumnElement[bool]) -> sa.Select[str]:
    """Return a query for the ids of the records that meet `conditions`, which locks them and skips locked ones.

    A process that is frozen within a transaction keeps its rows locked until it continues or its connection ends; a
    process that waited for such a row would be blocked as long. SQLite has one lock for all rows, with a timeout.
    """
    return sa.select(JobRecord.id).where(*conditions).with_for_update(skip_locked=True)
