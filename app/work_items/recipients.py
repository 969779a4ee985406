"""The recipients of mails about work items. Core only: listeners call this within a flush."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from app.accounts import User
from app.schools import is_of_enabled_school
from app.work_items.models import WorkItem, WorkItemWatcher
from flask_belfry.changes import current_session

# SQLite accepts at most 32,766 bound values in a statement.
IDS_PER_QUERY = 10_000


class Recipient(NamedTuple):
    """A person to notify."""

    user_id: int
    email: str
    skips_own_changes: bool


_IDS = sa.bindparam("ids", expanding=True)


def _joined(column: Any) -> sa.Select[int, Any]:
    return sa.select(WorkItem.id.label("item_id"), column.label("user_id")).where(WorkItem.id.in_(_IDS))


_INVOLVED = sa.union(
    _joined(WorkItem.responsible_id),
    _joined(WorkItem.reporter_id),
    sa.select(WorkItemWatcher.item_id, WorkItemWatcher.user_id).where(WorkItemWatcher.item_id.in_(_IDS)),
).subquery()
# Built once: every change of a status runs it. Disabled and unconfirmed users are not notified, nor those of a disabled
# school.
_RECIPIENTS = (
    sa.select(_INVOLVED.c.item_id, User.id, User.email, User.skips_own_changes)
    .join(User, User.id == _INVOLVED.c.user_id)
    .where(User.active, User.confirmed_at.is_not(None), is_of_enabled_school(User.school_id))
    .order_by(_INVOLVED.c.item_id, User.id)
)


def recipients_of(item_ids: Sequence[int]) -> Mapping[int, Sequence[Recipient]]:
    """Return the responsible person, the reporter and the watchers of each item, each person once."""
    found: dict[int, list[Recipient]] = defaultdict(list)
    connection = current_session().connection()
    for begin in range(0, len(item_ids), IDS_PER_QUERY):
        for row in connection.execute(_RECIPIENTS, {"ids": item_ids[begin : begin + IDS_PER_QUERY]}):
            found[row.item_id].append(Recipient(row.id, row.email, row.skips_own_changes))
    return found
