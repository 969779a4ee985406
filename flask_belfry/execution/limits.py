"""Limits of running jobs and of starts per minute: what is counted, and how jobs that wait for a slot are released.

Both are counted by limit key while the key's row in `job_limits` is locked: a claim that blocks a job and a commit that
frees a slot then cannot miss each other. What runs is counted from the records, so that a crash loses no slot.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from flask_belfry.core.clock import utc_now
from flask_belfry.db import BelfrySession, insert_into, table_of
from flask_belfry.outbox import JobRecord, JobState
from flask_belfry.outbox.errors import UnknownJobError
from flask_belfry.outbox.limit import Limit
from flask_belfry.outbox.models import BlockedBy, JobLimit
from flask_belfry.outbox.pauses import release_blocked
from flask_belfry.outbox.pending import PendingMessage
from flask_belfry.outbox.registry import definition, definitions

# How many limit keys one transaction of the sweep examines, and the most jobs that it releases for each of them.
PAGE_KEYS = 200
PAGE_RECORDS = 200
_FREED = "freed_slots"
# In the `info` of a session: the HandOver of the worker that it belongs to.
HAND_OVER = "hand_over"
_LIMITS, _RECORDS = table_of(JobLimit), table_of(JobRecord)
_IS_BLOCKED = sa.and_(
    _RECORDS.c.state == sa.literal_column("'blocked'"),  # as in the index
    _RECORDS.c.blocked_by == BlockedBy.LIMIT,
)
_COUNT_RUNNING = (
    sa.select(_RECORDS.c.limit_key, sa.func.count().label("running"))
    .where(_RECORDS.c.limit_key.in_(sa.bindparam("keys", expanding=True)), _RECORDS.c.state == JobState.RUNNING)
    .group_by(_RECORDS.c.limit_key)
)
_BLOCKED = (
    sa.select(_RECORDS.c.id, _RECORDS.c.name, _RECORDS.c.queue, _RECORDS.c.timeout_seconds)
    .where(
        _RECORDS.c.limit_key == sa.bindparam("key"),
        _IS_BLOCKED,
        _RECORDS.c.name.not_in(sa.bindparam("full", expanding=True)),
    )
    .order_by(_RECORDS.c.id)
    .limit(sa.bindparam("most"))
    .with_for_update(skip_locked=True)
)
_SET_NEXT_START = sa.update(_LIMITS).where(_LIMITS.c.key == sa.bindparam("of")).values(next_start_at=sa.bindparam("at"))


def start_after(next_start_at: datetime | None, per_minute: int, now: datetime) -> tuple[datetime, datetime]:
    """Return the start time of a job, and the earliest one of the job after it.

    Start times are 60 / `per_minute` seconds apart, also after an idle time: within any 60 s there are at most
    `per_minute` of them.

    Args:
        next_start_at: the earliest start time according to the jobs before it; None for the first one.
        per_minute: how many may start in a minute.
        now: the current time.
    """
    start_at = max(next_start_at or now, now)
    # Rounded up: too short by a microsecond, one more would fit into the minute.
    return start_at, start_at + timedelta(microseconds=math.ceil(60_000_000 / per_minute))


def take_start_times(session: Session, key: str, per_minute: int, count: int) -> list[datetime]:
    """Take the start times of so many jobs at a rate, after those that were taken before under the same key.

    For jobs whose rate the caller determines, who passes each its time as `scheduled_at`. The key is locked until the
    transaction ends.

    Args:
        session: the session whose transaction takes them.
        key: what shares the rate; no job's limit may have it.
        per_minute: how many may start in a minute.
        count: how many.
    """
    next_start_at, now = lock(session, [key])[key], utc_now()
    times: list[datetime] = []
    for _ in range(count):
        start_at, next_start_at = start_after(next_start_at, per_minute, now)
        times.append(start_at)
    set_next_starts(session, {key: next_start_at})
    return times


def limit_of(name: str) -> Limit | None:
    """Return the limit of a job; None without one, and for a job that this process does not know."""
    try:
        return definition(name).limit
    except UnknownJobError:
        return None


def has_slot(name: str, running: int) -> bool:
    """Return whether one more job of this name may run beside so many with the same limit key."""
    limit = limit_of(name)
    return limit is None or limit.running is None or running < limit.running


def lock(session: Session, keys: Collection[str]) -> dict[str, datetime | None]:
    """Lock limit keys until the transaction ends; return the next start time of each.

    A key without a row gets one. All are locked in one order, so that transactions wait for each other and do not
    deadlock.
    """
    insert = insert_into(_LIMITS, session.get_bind().dialect.name)
    # In PostgreSQL this inserts or locks a row in one step. SQLite has one writer.
    statement = insert.on_conflict_do_update(index_elements=["key"], set_={"key": insert.excluded.key})
    rows = session.connection().execute(
        statement.returning(_LIMITS.c.key, _LIMITS.c.next_start_at), [{"key": key} for key in sorted(keys)]
    )
    return {row.key: row.next_start_at for row in rows}


def set_next_starts(session: Session, next_starts: Mapping[str, datetime | None]) -> None:
    """Store the next start times of keys that are locked."""
    session.connection().execute(_SET_NEXT_START, [{"of": key, "at": at} for key, at in next_starts.items()])


def count_running(session: Session, keys: Collection[str]) -> Counter[str]:
    """Return how many jobs run, by limit key."""
    rows = session.connection().execute(_COUNT_RUNNING, {"keys": list(keys)})
    return Counter({row.limit_key: row.running for row in rows})


def free_slots(session: Session, keys: Iterable[str] | Mapping[str, int]) -> None:
    """Note that the open transaction frees a slot of each of `keys`: its commit releases jobs that wait for them."""
    session.info.setdefault(_FREED, Counter()).update(keys)


def release(session: Session, slots: Mapping[str, int]) -> None:
    """Release the jobs that wait longest for a slot, at most so many of each key, as far as slots are free.

    The worker that the session belongs to claims those that it has capacity for; the others are published. A job name
    whose limit is reached is passed over: jobs of other names may have the same key and a higher limit.
    """
    lock(session, slots)
    running = count_running(session, slots)
    released: list[PendingMessage] = []
    for key, most in slots.items():
        values = {"key": key, "most": most, "full": _names_without_slot(running[key])}
        for row in session.connection().execute(_BLOCKED, values):
            if has_slot(row.name, running[key]):
                running[key] += 1
                released.append(PendingMessage(row.id, row.name, row.queue, row.timeout_seconds, goes_first=True))
    hand_over = session.info.get(HAND_OVER)
    claimed = hand_over.claim(session, released) if hand_over is not None and released else set()
    # Each is pushed in front of the one before it.
    release_blocked(session, [message for message in reversed(released) if message.id not in claimed])


def sweep(session: Session) -> Iterator[None]:
    """Release jobs that wait although slots are free, page by page. Commits.

    No commit has released them when their limit was raised or removed, or when a released job was cancelled before its
    claim.
    """
    last = ""
    while _is_any_blocked(session) and (keys := _next_keys(session, last)):
        if blocked := _with_blocked(session, keys):
            release(session, dict.fromkeys(blocked, PAGE_RECORDS))
            session.commit()
        last = keys[-1]
        yield


def _is_any_blocked(session: Session) -> bool:
    found = session.connection().execute(sa.select(_RECORDS.c.id).where(_IS_BLOCKED).limit(1)).first()
    session.rollback()
    return found is not None


def _next_keys(session: Session, last: str) -> list[str]:
    query = sa.select(_LIMITS.c.key).where(_LIMITS.c.key > last).order_by(_LIMITS.c.key).limit(PAGE_KEYS)
    return list(session.connection().execute(query).scalars())


def _with_blocked(session: Session, keys: Collection[str]) -> list[str]:
    is_blocked = sa.exists().where(_RECORDS.c.limit_key == _LIMITS.c.key, _IS_BLOCKED)
    query = sa.select(_LIMITS.c.key).where(_LIMITS.c.key.in_(keys), is_blocked)
    found = list(session.connection().execute(query).scalars())
    session.rollback()
    return found


def _names_without_slot(running: int) -> list[str]:
    return [found.name for found in definitions() if not has_slot(found.name, running)]


@event.listens_for(BelfrySession, "before_commit")
def _release_freed(session: Session) -> None:
    # Last in the transaction, so that keys are locked in one order and for a moment only.
    if session.info.get(_FREED) and not session.in_nested_transaction():
        release(session, session.info.pop(_FREED))


@event.listens_for(BelfrySession, "after_transaction_end")
def _discard_freed(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_FREED, None)
