"""The backlog: pending jobs that wait in SQL because their queue at RQ is full, and the fair choice among them.

A set in Redis, BACKLOG_KEY, names the queues that have one. While a queue is in it, publishers push nothing more to
that queue, and workers claim from SQL what the queue at RQ does not bring. A publisher commits a job before it adds the
queue to the set, and a worker looks for jobs after it has removed the queue: so no job is left behind.
"""

from __future__ import annotations

import time
from collections import defaultdict
from itertools import zip_longest
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from flask_belfry.db import table_of
from flask_belfry.db.columns import MAX_INTEGER
from flask_belfry.outbox.models import QUARANTINE, JobRecord
from flask_belfry.outbox.registry import HEAVY_QUEUES
from flask_belfry.outbox.states import JobState

BACKLOG_KEY = "belfry:backlog"
# How long a process relies on the length of a queue that it has learned.
KNOWN_SECONDS = 1.0
# The most ids of a queue whose workers run one job at a time: the next job of a school waits for all of them.
HEAVY_BOUND = 4

# Jobs of the system have no school: here they are those of a school before all others.
SYSTEM = -1
_START = SYSTEM - 1

_jobs, _chosen = table_of(JobRecord), table_of(JobRecord).alias("chosen")
_QUEUE, _AFTER, _COUNT, _SHARE, _SUSPICION = (
    sa.bindparam(name) for name in ("queue", "after", "count", "share", "suspicion_limit")
)


def _pending(column: Any, *conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    # The state is a literal, so that the partial index is used whatever the parameters are. SQLite would choose another
    # index: it has no statistics.
    is_pending = _jobs.c.state == sa.literal_column(f"'{JobState.PENDING.value}'")
    query = sa.select(column).select_from(_jobs).where(is_pending, _jobs.c.queue == _QUEUE, *conditions)
    return query.with_hint(_jobs, "INDEXED BY ix_job_records_backlog", "sqlite")


def _schools() -> sa.Select[int]:
    """Return a query that reads one row for each school: ranking the pending rows would read all of them."""
    school_id, has_none = _jobs.c.school_id, _pending(sa.literal(1), _jobs.c.school_id.is_(None)).exists()
    first = _pending(sa.func.min(school_id), school_id > _AFTER).scalar_subquery()
    start = sa.case((sa.and_(_AFTER < SYSTEM, has_none), SYSTEM), else_=first)
    schools = sa.select(start.label("school_id"), sa.literal(1).label("position")).cte("schools", recursive=True)
    following = _pending(sa.func.min(school_id), school_id > schools.c.school_id).scalar_subquery()
    is_more_wanted = schools.c.school_id.is_not(None), schools.c.position < _COUNT
    schools = schools.union_all(sa.select(following, schools.c.position + 1).where(*is_more_wanted))
    # Locks nothing in PostgreSQL, and begins the transaction of SQLite, whose one lock the choice needs too.
    return sa.select(schools.c.school_id).where(schools.c.school_id.is_not(None)).with_for_update()


def _oldest(of_school: sa.ColumnElement[bool]) -> sa.Select[str]:
    # By `school_id` too, as the index: PostgreSQL does not know that all rows of the system have the same one, and
    # would sort them.
    oldest = _pending(_jobs.c.id, _jobs.c.suspicion < _SUSPICION, of_school)
    oldest = oldest.order_by(_jobs.c.school_id, _jobs.c.created_at)
    return oldest.limit(_SHARE).with_for_update(skip_locked=True)


def _of_schools(dialect: str) -> sa.Select[int, str]:
    if dialect == "sqlite":  # it has no LATERAL
        schools = sa.func.json_each(sa.bindparam("schools", type_=sa.JSON)).table_valued("value", name="schools")
        oldest = _oldest(_jobs.c.school_id == schools.c.value).correlate(schools)
        chosen = schools.join(_chosen, _chosen.c.id.in_(oldest))
        return sa.select(schools.c.value, _chosen.c.id).select_from(chosen).order_by(_chosen.c.created_at)
    listed = sa.func.unnest(sa.bindparam("schools", type_=ARRAY(sa.Integer)))
    schools = listed.table_valued("value").render_derived(name="schools")
    oldest = _oldest(_jobs.c.school_id == schools.c.value).lateral("oldest")
    return sa.select(schools.c.value, oldest.c.id).select_from(schools.join(oldest, sa.true()))


# Built once: to build and hash a statement takes longer than to run it.
_SCHOOLS = _schools()
_OF_SCHOOLS = {dialect: _of_schools(dialect) for dialect in ("postgresql", "sqlite")}
_OF_SYSTEM = _oldest(_jobs.c.school_id.is_(None))


def _schools_after(connection: sa.Connection, after: int, queue: str, count: int) -> list[int]:
    return list(connection.execute(_SCHOOLS, {"queue": queue, "after": after, "count": count}).scalars())


class Choice(NamedTuple):
    """Jobs that were chosen, in the order in which they should run, and whether there may be more."""

    ids: list[str]
    has_more: bool


class FairChoice:
    """Chooses jobs of the backlog, the same number from each school.

    Where there are more schools than jobs to choose, each choice continues after the schools of the last one.
    """

    def __init__(self) -> None:
        self._after: defaultdict[str, int] = defaultdict(lambda: _START)  # by queue

    def choose(self, session: Session, queue: str, count: int, *, with_quarantined: bool = False) -> Choice:
        """Choose pending jobs of a queue, and lock them until the open transaction ends. Locked ones are skipped.

        Args:
            session: whose transaction.
            queue: the name of the queue.
            count: the most jobs. There may be fewer although there are more, when some schools have few.
            with_quarantined: whether to choose quarantined jobs too, which are not claimed among others.
        """
        connection, after = session.connection(), self._after[queue]
        schools = _schools_after(connection, after, queue, count)
        if after != _START and len(schools) < count:
            begun = _schools_after(connection, _START, queue, count - len(schools))
            schools += [school_id for school_id in begun if school_id <= after]
        if not schools:
            return Choice([], has_more=False)
        self._after[queue] = schools[-1] if len(schools) == count else _START
        share = -(-count // len(schools))
        others = [school_id for school_id in schools if school_id != SYSTEM]
        suspicion_limit = MAX_INTEGER if with_quarantined else QUARANTINE
        values = {"queue": queue, "share": share, "schools": others, "suspicion_limit": suspicion_limit}
        ids: defaultdict[int, list[str]] = defaultdict(list)
        if SYSTEM in schools:
            ids[SYSTEM] += connection.execute(_OF_SYSTEM, values).scalars()
        if others:
            for school_id, id in connection.execute(_OF_SCHOOLS[connection.dialect.name], values):
                ids[school_id].append(id)
        # When others hold all of them, looking again would find as little.
        is_everything = not ids or (len(schools) < count and all(len(found) < share for found in ids.values()))
        # The first job of each school, the school with the fewest first, then the second of each, and so on.
        turns = zip_longest(*sorted(ids.values(), key=len))
        chosen = [id for turn in turns for id in turn if id is not None]
        return Choice(chosen[:count], has_more=not is_everything)


_UNKNOWN = (0, False, 0.0)


class KnownQueues:
    """What a process knows of the queues at RQ: how long they are, and which have a backlog.

    Args:
        bound: the most ids that publishers let a queue of short jobs hold.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._known: dict[str, tuple[int, bool, float]] = {}

    def bound_of(self, queue: str) -> int:
        """Return the most ids that publishers let a queue hold."""
        return min(self.bound, HEAVY_BOUND) if queue in HEAVY_QUEUES else self.bound

    def room(self, queue: str) -> int:
        """Return how many ids may be pushed to a queue."""
        length, has_backlog, known_at = self._known.get(queue, _UNKNOWN)
        if has_backlog:  # what is withheld learns whether that is still so
            return 0
        return self.bound_of(queue) - (length if time.monotonic() - known_at < KNOWN_SECONDS else 0)

    def has_backlog(self, queue: str) -> bool:
        """Return whether a queue had a backlog when this process pushed to it last."""
        return self._known.get(queue, _UNKNOWN)[1]

    def learn(self, queue: str, length: int, has_backlog: bool) -> None:
        """Record what a reply of Redis says of a queue."""
        self._known[queue] = length, has_backlog, time.monotonic()
