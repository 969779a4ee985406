"""Skips rows that an open transaction has locked, and finds rows by their ids."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from flask_belfry.outbox.models import JobRecord
from flask_belfry.outbox.states import JobState


def unlocked(*conditions: sa.ColumnElement[bool]) -> sa.Select[str]:
    """Return a query for the ids of the records that meet `conditions`, which locks them and skips locked ones.

    A process that is frozen within a transaction keeps its rows locked until it continues or its connection ends; a
    process that waited for such a row would be blocked as long. SQLite has one lock for all rows, with a timeout.
    """
    return sa.select(JobRecord.id).where(*conditions).with_for_update(skip_locked=True)


def is_in(states: Collection[JobState]) -> sa.ColumnElement[bool]:
    """Return the condition for a record in one of `states`, beside a condition on its id.

    No index serves it: PostgreSQL, while its statistics are older than a large backlog, would otherwise read all
    pending records to find a few ids among them.
    """
    text = sa.type_coerce(JobRecord.state, sa.String).concat(sa.literal_column("''"))
    return text.in_([state.value for state in states])
