"""Unique keys that are taken for a period, also after their jobs have been finalized."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.db import insert_into, table_of
from flask_belfry.outbox.models import UniquePeriod

_periods = table_of(UniquePeriod)


class Period(NamedTuple):
    """The job that takes a key, and the end of the period."""

    job_id: str
    ends_at: datetime


def take(session: Session, periods: Mapping[str, Period]) -> dict[str, str]:
    """Take the keys that are free, or whose period has ended, in the open transaction.

    Another transaction that takes one of them waits for the end of this one.

    Args:
        session: whose transaction.
        periods: the new periods, by key.

    Returns:
        the ids of the jobs that hold the other keys, by key.
    """
    insert = insert_into(_periods, session.get_bind().dialect.name)
    statement = insert.on_conflict_do_update(
        index_elements=[_periods.c.key],
        set_={"job_id": insert.excluded.job_id, "ends_at": insert.excluded.ends_at},
        where=_periods.c.ends_at <= utc_now(),
    ).returning(_periods.c.key)
    # Sorted, so that two transactions that take the same keys wait for each other and do not deadlock.
    rows = [{"key": key, **periods[key]._asdict()} for key in sorted(periods)]
    taken = set(session.connection().execute(statement, rows).scalars())
    query = sa.select(_periods.c.key, _periods.c.job_id).where(_periods.c.key.in_(periods.keys() - taken))
    return {row.key: row.job_id for row in session.connection().execute(query)} if len(taken) < len(periods) else {}


def release(session: Session, keys: Collection[str]) -> None:
    """Release keys that this transaction has taken, for jobs that it could not insert."""
    if keys:
        session.connection().execute(sa.delete(_periods).where(_periods.c.key.in_(keys)))
