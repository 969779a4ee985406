"""Delayed jobs in rq-scheduler's sorted set: the time at which a record is due, or a schedule's next run.

SQL decides what is due; an entry of the set is only a hint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import redis
import sqlalchemy as sa

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text
from flask_belfry.outbox import JobRecord, JobState
from flask_belfry.outbox.locking import is_in, unlocked
from flask_belfry.outbox.models import BY_SCHEDULED_AT
from flask_belfry.outbox.pending import PendingMessage
from flask_belfry.outbox.publisher import DELAYED_KEY, Publisher
from flask_belfry.outbox.states import TIMED, sources_of

PAGE_SIZE = 1_000


class ScheduledSet:
    """The members of the set: ids of records, and other names that the scheduler adds.

    Args:
        connection: a client.
        publisher: pushes the records that are due.
    """

    def __init__(self, connection: redis.Redis, publisher: Publisher) -> None:
        self._connection = connection
        self._publisher = publisher

    def set(self, times: Mapping[str, datetime]) -> None:
        """Set members to their times, replacing earlier ones."""
        if times:
            self._connection.zadd(DELAYED_KEY, {member: moment.timestamp() for member, moment in times.items()})

    def remove(self, members: Collection[str | bytes]) -> None:
        """Remove members."""
        if members:
            self._connection.zrem(DELAYED_KEY, *members)

    def due_among(self, members: Sequence[str]) -> list[str]:
        """Return those of `members` that are due, and those that the set has lost."""
        if not members:
            return []
        now, times = utc_now().timestamp(), self._connection.zmscore(DELAYED_KEY, list(members))
        return [member for member, at in zip(members, times, strict=True) if at is None or at <= now]

    def due(self) -> Sequence[Any]:
        """Return the members that have been due for longest, at most PAGE_SIZE."""
        return self._connection.zrangebyscore(DELAYED_KEY, "-inf", utc_now().timestamp(), start=0, num=PAGE_SIZE)

    def move(self, members: Sequence[bytes]) -> None:
        """Push the due records among `members` and remove them from the set, both in one transaction of Redis.

        They become pending first: those that a full queue cannot hold are its backlog, as when they were enqueued. A
        record that is due later according to SQL gets its true time; one that is cancelled, finalized or unknown is
        removed.
        """
        if not members:
            return
        by_id = {id: member for member in members if (id := as_uuid_text(member.decode(errors="replace")))}
        # First in SQL: a worker whose clock is slow would not claim a record that is not yet due for it.
        records = _make_pending(list(by_id))
        moved = [by_id[record.id] for record in records]
        self._publisher.push(records, members=moved)
        if left := set(members).difference(moved):
            later = _due_later(list(by_id))
            self.set(later)
            self.remove([member for member in left if member.decode(errors="replace") not in later])

    def restore(self, until: datetime | None) -> Iterator[None]:
        """Add the records that are due before `until` (None: all), page by page, the earliest first."""
        page = _timed(until)
        while rows := db.session.execute(page).all():
            db.session.rollback()
            self.set({row.id: row.scheduled_at for row in rows})
            if len(rows) < PAGE_SIZE:
                break
            yield
            position = sa.tuple_(JobRecord.scheduled_at, JobRecord.id)
            page = _timed(until).where(position > (rows[-1].scheduled_at, rows[-1].id))
        db.session.rollback()


def _make_pending(ids: Sequence[str]) -> list[PendingMessage]:
    """Make the due records among `ids` pending; return them with those that a crashed scheduler has not pushed."""
    now = utc_now()
    is_due = sa.and_(is_in(sources_of(JobState.PENDING) & TIMED), JobRecord.scheduled_at <= now)
    is_published = is_in([JobState.PENDING, JobState.QUEUED])
    statement = (
        sa.update(JobRecord)
        .where(JobRecord.id.in_(unlocked(JobRecord.id.in_(ids), sa.or_(is_due, is_published))))
        .values(state=JobState.PENDING, enqueued_at=now)
        .returning(JobRecord.id, JobRecord.name, JobRecord.queue, JobRecord.timeout_seconds)
    )
    rows = db.session.execute(statement, execution_options={"synchronize_session": False}).all()
    db.session.commit()
    return [PendingMessage(*row) for row in rows]


def _due_later(ids: Sequence[str]) -> dict[str, datetime]:
    query = sa.select(JobRecord.id, JobRecord.scheduled_at)
    rows = db.session.execute(query.where(JobRecord.id.in_(ids), JobRecord.state.in_(TIMED))).all()
    db.session.rollback()
    return {row.id: row.scheduled_at for row in rows}


def _timed(until: datetime | None) -> sa.Select[str, datetime | None]:
    query = sa.select(JobRecord.id, JobRecord.scheduled_at).where(JobRecord.is_timed())
    query = query.with_hint(JobRecord, BY_SCHEDULED_AT, "sqlite")
    if until is not None:
        query = query.where(JobRecord.scheduled_at < until)
    return query.order_by(JobRecord.scheduled_at, JobRecord.id).limit(PAGE_SIZE)
