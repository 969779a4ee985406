"""The rescuer returns jobs to their queues whose worker has stopped sending heartbeats."""

from __future__ import annotations

from collections import Counter

import sqlalchemy as sa
import structlog
from flask import current_app
from sqlalchemy.orm import Session

from flask_belfry.execution import attempts
from flask_belfry.execution import claim as claims
from flask_belfry.execution.attempts import Part
from flask_belfry.execution.claim import Claim
from flask_belfry.execution.heartbeat import is_settled
from flask_belfry.outbox import JobRecord, JobState, WorkerProcess
from flask_belfry.outbox.locking import unlocked
from flask_belfry.outbox.models import QUARANTINE

log = structlog.get_logger(__name__)


def rescue(session: Session) -> int:
    """Interrupt every running record whose worker sent no heartbeat within RESCUE_AFTER_SECONDS, and commit.

    Returns:
        how many records were rescued.
    """
    alive = sa.select(WorkerProcess.name).where(WorkerProcess.is_alive(current_app.config["RESCUE_AFTER_SECONDS"]))
    is_stranded = JobRecord.worker.not_in(alive), is_settled(), JobRecord.state == JobState.RUNNING
    stranded = claims.claims_of(session, JobRecord.id.in_(unlocked(*is_stranded)))
    workers = {claim.worker for claim in stranded}
    # Includes records that are locked and rescued later: they ran beside the others too.
    held = (
        Counter(claim.worker for claim in claims.claims_of(session, JobRecord.worker.in_(workers))) if workers else {}
    )
    for claim in stranded:
        part = _part_of(claim, held[claim.worker])
        state = attempts.interrupt(session, claim, f"worker {claim.worker} sent no heartbeat", part)
        log.warning("job.interrupted", job=claim.name, job_id=claim.id, worker=claim.worker, state=state)
    session.commit()
    return len(stranded)


def _part_of(claim: Claim, held: int) -> Part:
    """Return the job's part in a crash without a witness: only a job that was to run alone certainly caused it."""
    if claim.suspicion >= QUARANTINE:
        return Part.ALONE
    return Part.POSSIBLE if held > 1 else Part.NAMED
