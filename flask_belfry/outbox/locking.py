"""Passing by rows that an open transaction has locked."""

from __future__ import annotations

import sqlalchemy as sa

from flask_belfry.outbox.models import JobRecord


def unlocked(*conditions: sa.ColumnElement[bool]) -> sa.Select[str]:
    """The ids of the records that meet `conditions`, as a query that locks them and leaves out those that are locked.

    A process that is frozen in the middle of a transaction keeps its rows locked until it thaws or its connection
    ends: whoever waited for one of them would stand still as long. SQLite has one lock for all, and a timeout for it.
    """
    return sa.select(JobRecord.id).where(*conditions).with_for_update(skip_locked=True)
