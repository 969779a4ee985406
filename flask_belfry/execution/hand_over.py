"""The hand-over of slots: the commit that frees slots of a limit claims the next blocked jobs for its own worker.

Otherwise each of them is published, popped, and counted again by its claim, in transactions that wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from flask_belfry.core.clock import utc_now
from flask_belfry.db import BelfrySession
from flask_belfry.execution.admission import IDS
from flask_belfry.execution.claim import COLUMNS, RECORDS, RUNNING, Claim
from flask_belfry.execution.limits import HAND_OVER, limit_of
from flask_belfry.outbox import JobState
from flask_belfry.outbox.models import QUARANTINE, BlockedBy, PauseKind
from flask_belfry.outbox.pauses import NOW, is_paused
from flask_belfry.outbox.pending import PendingMessage

_CLAIMED = "handed_over"
# Quarantined jobs run on a worker of their own; paused and expired ones are left to an ordinary claim.
_CLAIM_BLOCKED = (
    sa.update(RECORDS)
    .where(
        IDS,
        RECORDS.c.state == JobState.BLOCKED,
        RECORDS.c.blocked_by == BlockedBy.LIMIT,
        RECORDS.c.suspicion < QUARANTINE,
        sa.or_(RECORDS.c.expires_at.is_(None), RECORDS.c.expires_at > NOW),
        sa.not_(is_paused(*PauseKind)),
    )
    .values(RUNNING | {"blocked_by": None})
    .returning(*COLUMNS)
)


@dataclass(frozen=True)
class HandOver:
    """How a worker receives blocked jobs with the commits that end its own.

    A crash after such a commit leaves running jobs of a crashed worker, which the rescuer finds as any others.

    Args:
        worker: the worker's name.
        capacity: returns how many more jobs the worker should have, by queue.
        accept: called with the claims, after their commit.
    """

    worker: str
    capacity: Callable[[], Mapping[str, int]]
    accept: Callable[[Sequence[Claim]], None]

    def offer(self, session: Session) -> None:
        """Let the commits of the session claim jobs for the worker."""
        session.info[HAND_OVER] = self

    def claim(self, session: Session, released: Sequence[PendingMessage]) -> set[str]:
        """Claim those of the released jobs that the worker has capacity for, and return their ids. Those whose limit
        has a rate are left out: their start times are given at an ordinary claim.

        Args:
            session: whose transaction, which has locked their limit keys, and the jobs.
            released: jobs that are blocked, and that have a slot each.
        """
        capacity = self.capacity()
        ids: list[str] = []
        for message in released:
            limit = limit_of(message.name)
            has_rate = limit is not None and limit.per_minute is not None
            if not has_rate and len(ids) < capacity.get(message.queue, 0):
                ids.append(message.id)
        if not ids:
            return set()
        rows = session.connection().execute(_CLAIM_BLOCKED, {"ids": ids, "now": utc_now(), "by": self.worker})
        claims = sorted((Claim(*row) for row in rows), key=attrgetter("id"))
        session.info[_CLAIMED] = claims
        return {claim.id for claim in claims}


@event.listens_for(BelfrySession, "after_commit")
def _accept_claimed(session: Session) -> None:
    # Also fires for savepoints, but none is open after the last statements of a transaction.
    if claims := session.info.pop(_CLAIMED, None):
        session.info[HAND_OVER].accept(claims)


@event.listens_for(BelfrySession, "after_transaction_end")
def _discard_claimed(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_CLAIMED, None)
