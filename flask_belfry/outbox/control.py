"""What a person may do to jobs: retry those that ended, cancel those that wait or run."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.outbox.errors import JobStateError
from flask_belfry.outbox.finalizing import announce_finalized
from flask_belfry.outbox.models import JobRecord
from flask_belfry.outbox.pending import PendingMessage, publish_on_commit
from flask_belfry.outbox.states import WAITING, JobState


def retry(ids: Sequence[str]) -> list[str]:
    """Sets failed and cancelled jobs back to pending, with all their attempts before them. The caller commits.

    Returns:
        the ids that were set back; others are in a state that cannot be retried.

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
            # The relay's grace starts anew, or it would push beside the publisher.
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
        raise JobStateError("another live job has the same unique key: cancel that one first") from error
    publish_on_commit(db.session(), [PendingMessage(*row) for row in rows])
    return [row.id for row in rows]


def cancel(ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Cancels jobs: those that wait at once, those that run as soon as their function asks. The caller commits.

    Returns:
        the ids that are cancelled, and the ids that were asked to stop.
    """
    options = {"synchronize_session": False}
    waiting = (
        sa.update(JobRecord)
        .where(JobRecord.id.in_(ids), JobRecord.state.in_(WAITING))
        .values(state=JobState.CANCELLED, finished_at=utc_now())
        .returning(JobRecord.id, JobRecord.name)
    )
    running = (
        sa.update(JobRecord)
        .where(JobRecord.id.in_(ids), JobRecord.state == JobState.RUNNING)
        .values(cancel_requested=True)
        .returning(JobRecord.id)
    )
    cancelled = db.session.execute(waiting, execution_options=options).all()
    asked = list(db.session.execute(running, execution_options=options).scalars())
    announce_finalized(db.session(), [(row.id, row.name) for row in cancelled], JobState.CANCELLED)
    return [row.id for row in cancelled], asked
