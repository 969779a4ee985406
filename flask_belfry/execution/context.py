"""The running job, as its function sees it: its claim, and whether a user requested that it stop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext

from flask_belfry.core.database_errors import is_database_away
from flask_belfry.db import db
from flask_belfry.execution.claim import Claim
from flask_belfry.execution.errors import EngineError, JobCancelledError
from flask_belfry.outbox import Batch, JobRecord, get_batch

CANCEL_POLL_SECONDS = 1.0


@dataclass
class RunningJob:
    """The job that runs in this thread.

    `outage` is the error with which it lost the database, also when its function caught it.
    """

    claim: Claim
    outage: BaseException | None = None
    _queried_at: float = field(default=0.0, repr=False)

    @property
    def batch(self) -> Batch:
        """The batch of the job, to which it can add jobs. Raises EngineError for a job of none."""
        if self.claim.batch_id is None:
            raise EngineError(f"job {self.claim.name} {self.claim.id} is not of a batch")
        return get_batch(self.claim.batch_id)

    def is_cancel_requested(self) -> bool:
        """Return whether a user requested that it stop; query the database at most once a second."""
        if time.monotonic() - self._queried_at < CANCEL_POLL_SECONDS:
            return False
        self._queried_at = time.monotonic()
        # On a connection of its own: the job's transaction must not be disturbed.
        with db.engine.connect() as connection:
            query = sa.select(JobRecord.cancel_requested).where(JobRecord.id == self.claim.id)
            return bool(connection.execute(query).scalar())


_running: ContextVar[RunningJob | None] = ContextVar("running_job", default=None)


@contextmanager
def running(claim: Claim) -> Iterator[RunningJob]:
    """Mark `claim` as the job that runs in the block."""
    token = _running.set(job := RunningJob(claim))
    try:
        yield job
    finally:
        _running.reset(token)


@event.listens_for(sa.Engine, "handle_error")
def _note_outage(context: ExceptionContext) -> None:
    # A ping that fails only ends a pooled connection, which is replaced.
    job, error = _running.get(), context.sqlalchemy_exception
    if job is not None and error is not None and not context.is_pre_ping and is_database_away(error):
        job.outage = error


def current_job() -> RunningJob:
    """Return the job that runs here. Raise EngineError outside of one."""
    job = _running.get()
    if job is None:
        raise EngineError("not called from a running job")
    return job


def check_cancelled() -> None:
    """Raise JobCancelledError when a user cancelled the running job: call it between the steps of long work."""
    if current_job().is_cancel_requested():
        raise JobCancelledError("cancelled by a user")
