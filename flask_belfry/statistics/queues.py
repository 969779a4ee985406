"""Samples of the queues: how many jobs wait and run in each. And the releases that run."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.db.inserts import insert_into
from flask_belfry.outbox import JobRecord, JobState, WorkerProcess
from flask_belfry.outbox.registry import QUEUES
from flask_belfry.statistics.models import QueueSample, Release

# Counts stop here: of the pending jobs of a queue, of which one index has all columns, and of all jobs of a state.
MAX_PENDING = 50_000
MAX_OTHERS = 2_000
_COUNTED_AS = {
    JobState.QUEUED: "waiting",
    JobState.RUNNING: "running",
    JobState.SCHEDULED: "scheduled",
    JobState.RETRYABLE: "scheduled",
    JobState.BLOCKED: "blocked",
}
_jobs = table_of(JobRecord)
_DUE_AT = sa.case((_jobs.c.scheduled_at > _jobs.c.created_at, _jobs.c.scheduled_at), else_=_jobs.c.created_at)


def sample_queues(session: Session) -> None:
    """Write a sample of each queue, and the releases of the processes that run. Commits."""
    now = utc_now()
    counts: dict[str, Counter[str]] = {name: Counter() for name in QUEUES}
    oldest: defaultdict[str, list[datetime]] = defaultdict(list)
    found = [*_pending(session), *_others(session)]
    for queue, column, jobs, due_at in found:
        if queue in counts:  # the running code may not know a queue any more
            counts[queue][column] += jobs
            if column == "waiting":
                oldest[queue].append(due_at)
    rows = [
        {
            "at": now,
            "queue": queue,
            "oldest_at": min(oldest[queue], default=None),
            **{name: counter[name] for name in ("waiting", "running", "scheduled", "blocked")},
        }
        for queue, counter in counts.items()
    ]
    session.execute(sa.insert(QueueSample), rows)
    _note_releases(session)
    session.commit()


def _pending(session: Session) -> list[tuple[str, str, int, datetime]]:
    found: list[tuple[str, str, int, datetime]] = []
    for queue in QUEUES:
        # As in `outbox.backlog`: the literal and the hint make both databases use the partial index.
        is_pending = _jobs.c.state == sa.literal_column(f"'{JobState.PENDING.value}'")
        rows = sa.select(_DUE_AT.label("due_at")).where(is_pending, _jobs.c.queue == queue)
        rows = rows.order_by(_jobs.c.school_id, _jobs.c.created_at)
        rows = rows.with_hint(_jobs, "INDEXED BY ix_job_records_backlog", "sqlite").limit(MAX_PENDING).subquery()
        query = sa.select(sa.func.count(), sa.func.min(rows.c.due_at)).select_from(rows)
        jobs, due_at = session.execute(query).one()
        if jobs:
            found.append((queue, "waiting", jobs, due_at))
    return found


def _others(session: Session) -> list[tuple[str, str, int, datetime]]:
    found: list[tuple[str, str, int, datetime]] = []
    for state, column in _COUNTED_AS.items():
        rows = sa.select(_jobs.c.queue, _DUE_AT.label("due_at")).where(_jobs.c.state == state)
        rows = rows.order_by(_jobs.c.id).limit(MAX_OTHERS).subquery()
        query = sa.select(rows.c.queue, sa.func.count(), sa.func.min(rows.c.due_at)).group_by(rows.c.queue)
        found += [(queue, column, jobs, at) for queue, jobs, at in session.execute(query)]
    return found


def _note_releases(session: Session) -> None:
    release, first_seen_at = WorkerProcess.release, sa.func.min(WorkerProcess.started_at)
    running: Any = sa.select(release, first_seen_at).where(release.is_not(None)).group_by(release)
    statement = insert_into(table_of(Release), session.get_bind().dialect.name)
    session.connection().execute(statement.from_select(["name", "first_seen_at"], running).on_conflict_do_nothing())
