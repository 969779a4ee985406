"""The relay: publishes committed records that are missing at RQ, and marks those that have arrived as queued."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from flask import current_app
from rq import Queue

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.outbox.locking import unlocked
from flask_belfry.outbox.models import JobRecord
from flask_belfry.outbox.pending import PendingMessage
from flask_belfry.outbox.publisher import Publisher
from flask_belfry.outbox.registry import QUEUES
from flask_belfry.outbox.states import TIMED, JobState, sources_of

PAGE_RECORDS = 1_000
# The scheduler enqueues a delayed job within a second of its time; the relay does it only when that has not happened.
TIMER_GRACE_SECONDS = 5.0


@dataclass
class RelayReport:
    """The numbers of one pass: records that were pushed, and records that had arrived already and are now marked."""

    pushed: int = 0
    marked: int = 0


def relay(publisher: Publisher) -> RelayReport:
    """Publish the records that should be at RQ and are not. Raises redis.RedisError when the broker is unavailable.

    These are pending records older than RELAY_GRACE_SECONDS, in which their own process publishes them; scheduled and
    retryable records that the scheduler has not enqueued; and queued records that Redis has lost.
    """
    report = RelayReport()
    for page in relay_pages(publisher):
        report.pushed += page.pushed
        report.marked += page.marked
    return report


def relay_pages(publisher: Publisher) -> Iterator[RelayReport]:
    """Run the relay page by page, for a caller that has other work in between."""
    publisher.ownership.learn(db.session())
    if not _has_candidates():
        return
    publisher.ownership.check(publisher.connection)
    # Redis first, SQL second: a record that a worker pops in between still counts as present.
    present = ids_at_rq(publisher)
    for page in _pages():
        missing = [record for record in page if record.id not in present]
        publisher.push(missing, members=[record.id.encode() for record in missing])
        _mark_queued([record.id for record in page])
        yield RelayReport(len(missing), len(page) - len(missing))


def ids_at_rq(publisher: Publisher) -> set[str]:
    """Return the ids in RQ's queues. A record that a worker has popped and not yet claimed is missing: pushed again,
    it is still claimed once."""
    with publisher.connection.pipeline(transaction=False) as pipeline:
        for queue in QUEUES:
            pipeline.lrange(Queue.redis_queue_namespace_prefix + queue, 0, -1)
        return {id.decode(errors="replace") for ids in pipeline.execute() for id in ids}


def _condition() -> sa.ColumnElement[bool]:
    now, settings = utc_now(), current_app.config
    pending_since = now - timedelta(seconds=settings["RELAY_GRACE_SECONDS"])
    queued_since = now - timedelta(seconds=settings["RESCUE_AFTER_SECONDS"])
    # A record that was released or retried by hand is pending since then, not since its creation.
    pending_at = sa.func.coalesce(JobRecord.enqueued_at, JobRecord.created_at)
    return sa.or_(
        sa.and_(JobRecord.state == JobState.PENDING, pending_at < pending_since),
        sa.and_(JobRecord.state.in_(TIMED), JobRecord.scheduled_at < now - timedelta(seconds=TIMER_GRACE_SECONDS)),
        sa.and_(JobRecord.state == JobState.QUEUED, JobRecord.enqueued_at < queued_since),
    )


def _has_candidates() -> bool:
    found = db.session.execute(sa.select(JobRecord.id).where(_condition()).limit(1)).first()
    db.session.rollback()
    return found is not None


def _pages() -> Iterator[list[PendingMessage]]:
    last, condition = "", _condition()
    columns: Sequence[Any] = (
        JobRecord.id,
        JobRecord.name,
        JobRecord.queue,
        JobRecord.timeout_seconds,
    )
    while True:
        query = sa.select(*columns).where(condition).order_by(JobRecord.id).limit(PAGE_RECORDS)
        if last:
            query = query.where(JobRecord.id > last)
        page = [PendingMessage(*row) for row in db.session.execute(query)]
        db.session.rollback()
        if not page:
            return
        yield page
        last = page[-1].id


def _mark_queued(ids: Sequence[str]) -> None:
    free = unlocked(
        JobRecord.id.in_(ids),
        JobRecord.state.in_(sources_of(JobState.QUEUED) | {JobState.QUEUED}),
        # A record that ran and failed since it was pushed waits for its retry.
        sa.or_(JobRecord.state.not_in(TIMED), JobRecord.scheduled_at <= utc_now()),
    )
    values = {"state": JobState.QUEUED, "enqueued_at": utc_now()}
    statement = sa.update(JobRecord).where(JobRecord.id.in_(free)).values(values)
    db.session.execute(statement, execution_options={"synchronize_session": False})
    db.session.commit()
