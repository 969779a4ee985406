"""The quarantined jobs: those that run alone, so that a crash has one possible cause."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.outbox import JobRecord
from flask_belfry.outbox.locking import unlocked
from flask_belfry.outbox.models import QUARANTINE
from flask_belfry.outbox.states import CLAIMABLE, TIMED

_IS_QUARANTINED = JobRecord.suspicion >= sa.literal_column(str(QUARANTINE))  # as in the index


def quarantined_among(session: Session, ids: Collection[str]) -> list[str]:
    """Return those of `ids` that wait and are quarantined."""
    query = sa.select(JobRecord.id).where(JobRecord.id.in_(ids), JobRecord.state.in_(CLAIMABLE), _IS_QUARANTINED)
    return list(session.execute(query).scalars())


def next_quarantined(session: Session, queues: Sequence[str]) -> str | None:
    """Return the oldest quarantined job of these queues that is due."""
    is_due = sa.or_(JobRecord.state.not_in(TIMED), JobRecord.scheduled_at <= utc_now())
    conditions = JobRecord.state.in_(CLAIMABLE), JobRecord.queue.in_(queues), is_due, _IS_QUARANTINED
    id = session.scalar(unlocked(*conditions).order_by(JobRecord.id).limit(1))
    session.rollback()
    return id
