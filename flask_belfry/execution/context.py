"""What a running job function can ask about itself: its id, its attempt, and whether a person wants it to stop."""

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
from flask_belfry.outbox import JobRecord

CANCEL_POLL_SECONDS = 1.0


@dataclass
class RunningJob:
    """The job that runs in this thread.

    `outage` is the error with which it lost the database, whatever its function made of it.
    """

    claim: Claim
    outage: BaseException | None = None
    _asked_at: float = field(default=0.0, repr=False)

    def is_cancel_requested(self) -> bool:
        """Whether a person asked it to stop; asks the database at most once a second."""
        if time.monotonic() - self._asked_at < CANCEL_POLL_SECONDS:
            return False
        self._asked_at = time.monotonic()
        # On a connection of its own: the job's transaction must not be disturbed.
        with db.engine.connect() as connection:
            query = sa.select(JobRecord.cancel_requested).where(JobRecord.id == self.claim.id)
            return bool(connection.execute(query).scalar())


_running: ContextVar[RunningJob | None] = ContextVar("running_job", default=None)


@contextmanager
def running(claim: Claim) -> Iterator[RunningJob]:
    """Marks `claim` as the job that runs in this context."""
    token = _running.set(job := RunningJob(claim))
    try:
        yield job
    finally:
        _running.reset(token)


@event.listens_for(sa.Engine, "handle_error")
def _note_outage(context: ExceptionContext) -> None:
    # A ping that fails is only a pooled connection's end: a new one is made in its place.
    job, error = _running.get(), context.sqlalchemy_exception
    if job is not None and error is not None and not context.is_pre_ping and is_database_away(error):
        job.outage = error


def current_job() -> RunningJob:
    """The job that runs here. Raises EngineError outside of one."""
    job = _running.get()
    if job is None:
        raise EngineError("no job runs here")
    return job


def check_cancelled() -> None:
    """Raises JobCancelledError when a person asked the running job to stop: call it between steps of long work."""
    if current_job().is_cancel_requested():
        raise JobCancelledError("a person asked it to stop")
