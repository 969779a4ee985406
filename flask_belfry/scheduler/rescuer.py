"""The rescue: jobs that a dead worker left running go back to the queue."""

from __future__ import annotations

from collections import Counter

import sqlalchemy as sa
import structlog
from flask import current_app
from sqlalchemy.orm import Session

from flask_belfry.execution import claim as claims
from flask_belfry.execution.claim import Claim, Part
from flask_belfry.execution.heartbeat import is_settled
from flask_belfry.outbox import JobRecord, JobState, WorkerProcess
from flask_belfry.outbox.locking import unlocked
from flask_belfry.outbox.models import QUARANTINE

log = structlog.get_logger(__name__)


def rescue(session: Session) -> int:
    """Interrupts every running record whose worker gave no sign of life within RESCUE_AFTER_SECONDS. Commits.

    Returns:
        how many records were rescued.
    """
    alive = sa.select(WorkerProcess.name).where(WorkerProcess.is_alive(current_app.config["RESCUE_AFTER_SECONDS"]))
    is_stranded = JobRecord.worker.not_in(alive), is_settled(), JobRecord.state == JobState.RUNNING
    stranded = claims.claims_of(session, JobRecord.id.in_(unlocked(*is_stranded)))
    workers = {claim.worker for claim in stranded}
    # Also what is locked, and left for later: it was no less beside the others.
    held = (
        Counter(claim.worker for claim in claims.claims_of(session, JobRecord.worker.in_(workers))) if workers else {}
    )
    for claim in stranded:
        part = _part_of(claim, held[claim.worker])
        state = claims.interrupt(session, claim, f"worker {claim.worker} gave no sign of life", part)
        log.warning("job.interrupted", job=claim.name, job_id=claim.id, worker=claim.worker, state=state)
    session.commit()
    return len(stranded)


def _part_of(claim: Claim, held: int) -> Part:
    """Nobody saw which job did it; only what was to run alone surely did."""
    if claim.suspicion >= QUARANTINE:
        return Part.ALONE
    return Part.POSSIBLE if held > 1 else Part.NAMED
