"""The relay: publishes committed records that are missing at RQ, and marks those that have arrived as queued.

Its passes are short whatever waits: of each queue it reads and pushes as many ids as the queue may hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from flask import current_app
from rq import Queue

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.db.columns import as_uuid_text
from flask_belfry.outbox.locking import is_in, unlocked
from flask_belfry.outbox.models import BY_SCHEDULED_AT, JobRecord
from flask_belfry.outbox.pending import PendingMessage
from flask_belfry.outbox.publisher import Publisher
from flask_belfry.outbox.registry import QUEUES
from flask_belfry.outbox.states import JobState, sources_of

PAGE_RECORDS = 1_000
# The scheduler moves a delayed job within a second of its time; the relay does it only when that has not happened.
TIMER_GRACE_SECONDS = 5.0

_IS_PENDING = JobRecord.state == sa.literal_column(f"'{JobState.PENDING.value}'")  # as in the index
# A record that was released or retried by hand is pending since then, not since its creation.
_PENDING_SINCE = sa.func.coalesce(JobRecord.enqueued_at, JobRecord.created_at)


@dataclass
class RelayReport:
    """The numbers of one pass: records that were pushed, and records that had arrived already and are now marked."""

    pushed: int = 0
    marked: int = 0


def relay(publisher: Publisher) -> RelayReport:
    """Publish the records that should be at RQ and are not. Raises redis.RedisError when the broker is unavailable.

    These are pending records older than RELAY_GRACE_SECONDS, in which their own process publishes them; scheduled and
    retryable records that the scheduler has not moved; and queued records that Redis has lost.
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
    yield from _make_late_ones_pending()
    yield from _make_lost_ones_pending(publisher)
    reports = [_publish_pending(publisher, queue) for queue in QUEUES]
    yield RelayReport(sum(report.pushed for report in reports), sum(report.marked for report in reports))


def ids_at_rq(publisher: Publisher, queues: Sequence[str] = QUEUES) -> set[str]:
    """Return the ids in RQ's queues. A record that a worker has popped and not yet claimed is missing: pushed again,
    it is still claimed once."""
    with publisher.connection.pipeline(transaction=False) as pipeline:
        for queue in queues:
            pipeline.lrange(Queue.redis_queue_namespace_prefix + queue, 0, -1)
        found = [as_uuid_text(id.decode(errors="replace")) for ids in pipeline.execute() for id in ids]
    return {id for id in found if id is not None}


def _has_candidates() -> bool:
    late = sa.select(JobRecord.id).where(_is_late()).with_hint(JobRecord, BY_SCHEDULED_AT, "sqlite")
    others = (sa.exists().where(condition) for condition in (_IS_PENDING, _is_queued_for_long()))
    query = sa.select(sa.or_(late.exists(), *others))
    found = db.session.execute(query).scalar_one()
    db.session.rollback()
    return found


def _is_late() -> sa.ColumnElement[bool]:
    late_since = utc_now() - timedelta(seconds=TIMER_GRACE_SECONDS)
    return sa.and_(JobRecord.is_timed(), JobRecord.scheduled_at < late_since)


def _is_queued_for_long() -> sa.ColumnElement[bool]:
    queued_since = utc_now() - timedelta(seconds=current_app.config["RESCUE_AFTER_SECONDS"])
    return sa.and_(JobRecord.state == JobState.QUEUED, JobRecord.enqueued_at < queued_since)


def _make_late_ones_pending() -> Iterator[RelayReport]:
    condition = _is_late()
    values = {"state": JobState.PENDING, "enqueued_at": JobRecord.scheduled_at}
    page = unlocked(condition, is_in(sources_of(JobState.PENDING))).with_hint(JobRecord, BY_SCHEDULED_AT, "sqlite")
    page = page.limit(PAGE_RECORDS)
    while _update(page, values) == PAGE_RECORDS:
        yield RelayReport()


def _make_lost_ones_pending(publisher: Publisher) -> Iterator[RelayReport]:
    """Make the queued records pending that Redis has lost; note of the others that they have been seen."""
    condition = _is_queued_for_long()
    # Redis first, SQL second: a record that a worker pops in between still counts as present.
    present = ids_at_rq(publisher)
    query = sa.select(JobRecord.id).where(condition).limit(PAGE_RECORDS)
    while ids := list(db.session.execute(query).scalars()):
        lost, seen = [id for id in ids if id not in present], [id for id in ids if id in present]
        updated = _update(unlocked(JobRecord.id.in_(lost), condition), {"state": JobState.PENDING})
        updated += _update(unlocked(JobRecord.id.in_(seen), condition), {"enqueued_at": utc_now()})
        if updated < PAGE_RECORDS:
            break
        yield RelayReport()
    db.session.rollback()


def _publish_pending(publisher: Publisher, queue: str) -> RelayReport:
    """Mark what is at RQ, and push as much of the rest as the queue can hold."""
    pending_since = utc_now() - timedelta(seconds=current_app.config["RELAY_GRACE_SECONDS"])
    is_old = sa.and_(is_in([JobState.PENDING]), pending_since > _PENDING_SINCE)
    present = list(ids_at_rq(publisher, [queue]))
    pages = [present[start : start + PAGE_RECORDS] for start in range(0, len(present), PAGE_RECORDS)]
    marked = sum(_mark_queued(page, is_old) for page in pages)
    bound = publisher.queues.bound_of(queue)
    # One more than the queue holds: what is left over is its backlog. A worker that pops a quarantined job has it run
    # alone; none of them chooses it from the backlog.
    most = max(bound, len(present)) + 1
    chosen, has_more = publisher.choice.choose(db.session(), queue, most, with_quarantined=True)
    missing = _messages(set(chosen).difference(present), is_old)
    db.session.rollback()
    pushed = [missing[id] for id in chosen if id in missing][: max(0, bound - len(present))]
    publisher.push(pushed, members=[record.id.encode() for record in pushed], is_bounded=False)
    _mark_queued([record.id for record in pushed], is_old)
    if has_more or len(missing) > len(pushed):
        publisher.mark_backlog([queue])
    return RelayReport(len(pushed), marked)


def _messages(ids: Collection[str], condition: sa.ColumnElement[bool]) -> dict[str, PendingMessage]:
    query = sa.select(JobRecord.id, JobRecord.name, JobRecord.queue, JobRecord.timeout_seconds)
    rows = db.session.execute(query.where(JobRecord.id.in_(ids), condition))
    return {row.id: PendingMessage(*row) for row in rows}


def _mark_queued(ids: Sequence[str], condition: sa.ColumnElement[bool]) -> int:
    values = {"state": JobState.QUEUED, "enqueued_at": utc_now()}
    may_be_queued = is_in(sources_of(JobState.QUEUED))
    return _update(unlocked(JobRecord.id.in_(ids), condition, may_be_queued), values) if ids else 0


def _update(ids: sa.Select[str], values: Mapping[str, Any]) -> int:
    """Update and commit; return the number of updated records."""
    statement = sa.update(JobRecord).where(JobRecord.id.in_(ids)).values(values).returning(JobRecord.id)
    updated = db.session.execute(statement, execution_options={"synchronize_session": False}).all()
    db.session.commit()
    return len(updated)
