"""Retries finalized jobs, and cancels waiting and running ones."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.outbox.errors import JobStateError
from flask_belfry.outbox.finalizing import FinalizedJob, announce_finalized
from flask_belfry.outbox.models import JobRecord
from flask_belfry.outbox.pending import PendingMessage, publish_on_commit
from flask_belfry.outbox.states import WAITING, JobState


def retry(ids: Sequence[str]) -> list[str]:
    """Set failed and cancelled jobs back to pending, with all their attempts. The caller commits.

    Returns:
        the ids that were set back; the others are in a state that cannot be retried.

    Raises:
        JobStateError: a live job holds the unique key of one of them.
    """
    statement = (
        sa.update(JobRecord)
        .where(JobRecord.id.in_(ids), JobRecord.state.in_([JobState.FAILED, JobState.CANCELLED]))
        .values(
            state=JobState.PENDING,
            attempt=0,
            interruptions=0,
            cancel_requested=False,
            scheduled_at=None,
            finished_at=None,
            # The relay's grace period starts again; otherwise both the relay and the publisher would push it.
            enqueued_at=utc_now(),
            error_type=None,
            error_message=None,
        )
        .returning(JobRecord.id, JobRecord.name, JobRecord.queue, JobRecord.timeout_seconds)
    )
    try:
        rows = db.session.execute(statement, execution_options={"synchronize_session": False}).all()
    except IntegrityError as error:
        db.session.rollback()
        raise JobStateError("another live job has the same unique key: cancel that job first") from error
    publish_on_commit(db.session(), [PendingMessage(*row) for row in rows])
    return [row.id for row in rows]


def cancel(ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Cancel jobs: waiting ones immediately, running ones when their function calls `check_cancelled`. The caller
    commits.

    Returns:
        the ids of the cancelled jobs, and of the running ones that were asked to stop.
    """
    options = {"synchronize_session": False}
    waiting = (
        sa.update(JobRecord)
        .where(JobRecord.id.in_(ids), JobRecord.state.in_(WAITING))
        .values(state=JobState.CANCELLED, finished_at=utc_now())
        .returning(JobRecord.id, JobRecord.name, JobRecord.batch_id, JobRecord.has_successors)
    )
    running = (
        sa.update(JobRecord)
        .where(JobRecord.id.in_(ids), JobRecord.state == JobState.RUNNING)
        .values(cancel_requested=True)
        .returning(JobRecord.id)
    )
    cancelled = db.session.execute(waiting, execution_options=options).all()
    asked = list(db.session.execute(running, execution_options=options).scalars())
    announce_finalized(db.session(), [FinalizedJob(*row) for row in cancelled], JobState.CANCELLED)
    return [row.id for row in cancelled], asked
