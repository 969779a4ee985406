"""The rescue: jobs that a dead worker left running go back to the queue."""

from __future__ import annotations

import sqlalchemy as sa
import structlog
from flask import current_app
from sqlalchemy.orm import Session

from app.outbox import JobRecord, JobState, WorkerProcess, unlocked
from jobs.engine import claim as claims
from jobs.engine.heartbeat import is_settled

log = structlog.get_logger(__name__)


def rescue(session: Session) -> int:
    """Interrupts every running record whose worker gave no sign of life within RESCUE_AFTER_SECONDS. Commits.

    Returns:
        how many records were rescued.
    """
    alive = sa.select(WorkerProcess.name).where(WorkerProcess.is_alive(current_app.config["RESCUE_AFTER_SECONDS"]))
    is_stranded = JobRecord.worker.not_in(alive), is_settled(), JobRecord.state == JobState.RUNNING
    stranded = claims.claims_of(session, JobRecord.id.in_(unlocked(*is_stranded)))
    for claim in stranded:
        state = claims.interrupt(session, claim, f"worker {claim.worker} gave no sign of life")
        log.warning("job.interrupted", job=claim.name, job_id=claim.id, worker=claim.worker, state=state)
    session.commit()
    return len(stranded)
