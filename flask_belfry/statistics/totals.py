"""Sums over all complete minutes, kept as the minutes become complete: counters for monitoring, which never fall.

A minute that is not complete is counted again. So the sums lag behind by the minutes that are not complete, and each
minute is added once.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.db import Base, table_of
from flask_belfry.db.inserts import insert_into
from flask_belfry.statistics.models import ALL_ID, Resolution, measures


def add_to_totals(
    session: Session, counted: type[Base], totals: type[Base], since: datetime | None, until: datetime
) -> None:
    """Add the minutes from `since` until `until`, which have become complete, to the totals.

    Call it in the transaction that moves `RollUp.complete_until` from the one to the other: then each minute is added
    once, whatever crashes and however many schedulers there are.

    Args:
        session: whose transaction.
        counted: the statistics by minute.
        totals: the model of their sums, whose primary key is that of `counted` without time and school.
        since: the previous `complete_until`; None when there was none.
        until: the new one.
    """
    source, table = table_of(counted), table_of(totals)
    keys = [source.c[column.name] for column in table.primary_key]
    names = measures(totals)
    # Those of all schools together: the others are in them.
    is_added = [source.c.resolution == Resolution.MINUTE, source.c.school_id == ALL_ID, source.c.at < until]
    if since is not None:
        is_added.append(source.c.at >= since)
    sums = sa.select(*keys, *(sa.func.sum(source.c[name]) for name in names)).where(*is_added).group_by(*keys)
    insert = insert_into(table, session.get_bind().dialect.name)
    insert = insert.from_select([*(key.name for key in keys), *names], sums)
    added = {name: table.c[name] + insert.excluded[name] for name in names}
    session.execute(insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=added))
