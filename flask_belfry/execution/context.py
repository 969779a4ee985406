"""The running job, as its function sees it: its claim, and whether a user requested that it stop."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.orm import QueryableAttribute

from flask_belfry.changes import Actor, use_actor
from flask_belfry.core.database_errors import is_database_away
from flask_belfry.core.secrets import mask, secrets_hidden
from flask_belfry.db import db
from flask_belfry.db.columns import storable
from flask_belfry.db.tenancy import ALL_TENANTS, scope_of, use_scope
from flask_belfry.execution.claim import Claim
from flask_belfry.execution.errors import EngineError, JobCancelledError, JobProgressError, JobStepsError
from flask_belfry.execution.journal import ClaimLog, Progress, journal
from flask_belfry.execution.steps import Key, Stepper
from flask_belfry.outbox import Batch, JobRecord, get_batch

CANCEL_POLL_SECONDS = 1.0
MAX_PROGRESS = 2**63 - 1
PROGRESS_CHARACTERS = 200


@dataclass
class RunningJob:
    """The job that runs in this thread; of a chunk, its first record.

    `item` is the record of a chunk that its function works on, as far as that is known. `outage` is the error with
    which the job lost the database, also when its function caught it. `secrets` finds its secret arguments in text.
    `stepper` commits the pages of its steps.
    """

    claim: Claim
    is_chunk: bool = False
    secrets: re.Pattern[str] | None = None
    item: Claim | None = None
    outage: BaseException | None = None
    stepper: Stepper | None = None
    _queried_at: float = field(default=0.0, repr=False)
    _logs: dict[str, ClaimLog] = field(default_factory=dict, repr=False)
    _process: int = field(default_factory=os.getpid, repr=False)

    def progress(self, done: int, total: int | None = None, text: str = "") -> None:
        """Report how far the job has come. It is visible within about a second, while the job's changes are not yet.

        Args:
            done: how much is done, of whatever it counts.
            total: how much there is to do; None when that is not known.
            text: what it does now, cut at 200 characters.

        Raises:
            JobProgressError: a number is not an integer from 0 on, or the job is a chunk.
        """
        if self.is_chunk:
            raise JobProgressError("a chunk has no progress: each of its records is a job of its own")
        for name, number in (("done", done), ("total", total)):
            if not _is_progress(number) and (name, number) != ("total", None):
                raise JobProgressError(f"{name} must be an integer from 0 to 2^63 - 1, not {number!r}")
        if not isinstance(text, str):
            raise JobProgressError(f"text must be text, not {type(text).__name__}")
        if self._process != os.getpid():
            raise JobProgressError("reported by a process that the job has forked, which is not the job")
        shown = storable(mask(text, self.secrets))[:PROGRESS_CHARACTERS]
        self._log_of(self.claim).report(Progress(done, total, shown or None))

    def steps(
        self,
        source: sa.Select[*tuple[Any, ...]] | Sequence[Any],
        size: int = 500,
        *,
        name: str = "steps",
        key: QueryableAttribute[Any] | Key | None = None,
        total: int | None = None,
    ) -> Iterator[Sequence[Any]]:
        """Return the pages of a query or a sequence, to loop over. What a page changes is committed before the next.

        The commit includes the cursor and the progress. When the job runs again, the loop continues after the last
        committed page: the effect of each page happens once. Before each page the job stops when it is cancelled or
        when its process is about to end; then it continues elsewhere without using an attempt. The time limit of the
        job starts again with each page.

        Args:
            source: a select of an entity or of columns of one, without an order, a limit or an offset; or a sequence.
            size: the most rows of a page.
            name: what the cursor is stored under: each loop of a job has its own.
            key: columns that are never NULL, by which the rows are ordered; by default the primary key.
            total: how many rows there are, if that is known; by default they are counted once, up to 1,000,000.

        Raises:
            JobStepsError: an argument is invalid, the job is a chunk, or the loop is within a page of another one.
        """
        if self.is_chunk:
            raise JobStepsError("a chunk has no steps: each of its records is a job of its own")
        if self.stepper is None or self._process != os.getpid():
            raise JobStepsError("called by a process that the job has forked, which is not the job")
        return self.stepper.pages(source, size, name, key, total, self._has_progress)

    def _has_progress(self) -> bool:
        """Whether the job itself has reported progress."""
        return self.claim.id in self._logs and self._logs[self.claim.id].progress is not None

    def add_line(self, line: Mapping[str, Any]) -> None:
        """Add a line to the log of the job; in a process that it has forked, do nothing."""
        if self._process == os.getpid():
            self._log_of(self.item or self.claim).add(line)

    @property
    def batch(self) -> Batch:
        """The batch of the job, to which it can add jobs. Raises EngineError for a job of none."""
        if self.claim.batch_id is None:
            raise EngineError(f"job {self.claim.name} {self.claim.id} is not of a batch")
        with use_scope(ALL_TENANTS):  # a batch of the system may have jobs of schools
            return get_batch(self.claim.batch_id)

    def is_cancel_requested(self) -> bool:
        """Return whether a user requested that it stop; query the database at most once a second.

        While the job reports progress or logs, the statements that write that answer it, without another query.
        """
        answer = self._logs[self.claim.id].is_cancel_requested() if self.claim.id in self._logs else None
        if answer is not None:
            return answer
        if time.monotonic() - self._queried_at < CANCEL_POLL_SECONDS:
            return False
        self._queried_at = time.monotonic()
        # On a connection of its own: the job's transaction must not be disturbed.
        with db.engine.connect() as connection:
            query = sa.select(JobRecord.cancel_requested).where(JobRecord.id == self.claim.id)
            return bool(connection.execute(query).scalar())

    def _log_of(self, claim: Claim) -> ClaimLog:
        if claim.id not in self._logs:
            self._logs[claim.id] = ClaimLog(claim, journal())
        return self._logs[claim.id]


def _is_progress(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= MAX_PROGRESS


_running: ContextVar[RunningJob | None] = ContextVar("running_job", default=None)


@contextmanager
def running(claim: Claim, secrets: re.Pattern[str] | None = None, *, is_chunk: bool = False) -> Iterator[RunningJob]:
    """Mark `claim`, or the chunk that it is the first record of, as the job that runs in the block.

    Args:
        claim: the claim.
        secrets: what finds the values of its secret arguments in text.
        is_chunk: whether it is the first record of a chunk.
    """
    token = _running.set(job := RunningJob(claim, is_chunk, secrets))
    try:
        if secrets is None:
            yield job
        else:
            with secrets_hidden(secrets):
                yield job
    finally:
        _running.reset(token)


@event.listens_for(sa.Engine, "handle_error")
def _note_outage(context: ExceptionContext) -> None:
    # A ping that fails only ends a pooled connection, which is replaced.
    job, error = _running.get(), context.sqlalchemy_exception
    if job is not None and error is not None and not context.is_pre_ping and is_database_away(error):
        job.outage = error


@contextmanager
def on_behalf_of(items: Sequence[Claim]) -> Iterator[None]:
    """Run the block as the record's user, in the scope of its school; a chunk of several schools is the system's."""
    first, schools = items[0], {item.school_id for item in items}
    school_id = first.school_id if len(schools) == 1 else None
    actor = Actor(first.user_id, first.request_id, first.id, school_id)
    with use_actor(actor), use_scope(scope_of(school_id)):
        yield


def running_job() -> RunningJob | None:
    """Return the job that runs here; None outside of one."""
    return _running.get()


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
