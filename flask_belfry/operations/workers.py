"""Worker processes for operators: what each of them runs, and a graceful stop. The page, the API and the command use
this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import load_only

from flask_belfry.changes import Subject, for_school
from flask_belfry.changes.actor import SUBJECT_ID_CHARACTERS
from flask_belfry.changes.host import current_host
from flask_belfry.core.errors import ConflictError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.columns import database_now, storable
from flask_belfry.outbox import JobRecord, JobState, WorkerProcess

# How long processes without heartbeats are listed as lost.
LOST_KEEP = timedelta(minutes=10)
# Of the running jobs the oldest are listed.
MAX_RUNNING = 500
SUBJECT_TYPE = "worker"


@dataclass(frozen=True)
class Worker:
    """A process of the job system, and its running jobs, the oldest first.

    `state` is running, stopping, silent (its last heartbeat is late) or lost (its jobs run elsewhere). The jobs of
    other schools are left out.
    """

    process: WorkerProcess
    state: str
    jobs: Sequence[JobRecord] = field(default=())

    @property
    def may_be_stopped(self) -> bool:
        """Whether it can be asked to stop: only workers with queues stop at a heartbeat."""
        return bool(self.process.queues) and self.state in ("running", "silent")

    @property
    def queues(self) -> list[str]:
        """The names of its queues, in their order of precedence."""
        return self.process.queues.split(",") if self.process.queues else []


def workers() -> list[Worker]:
    """Return the processes that run, and those that were lost a short time ago, by kind and start."""
    is_listed = WorkerProcess.is_alive(LOST_KEEP.total_seconds())
    query = sa.select(WorkerProcess, database_now()).where(is_listed)
    query = query.order_by(WorkerProcess.kind, WorkerProcess.started_at, WorkerProcess.name)
    rows = db.session.execute(query).all()
    by_worker: dict[str | None, list[JobRecord]] = {}
    for job in running_jobs():
        by_worker.setdefault(job.worker, []).append(job)
    return [_worker(process, now, by_worker.get(process.name, ())) for process, now in rows]


def running_jobs(limit: int = MAX_RUNNING) -> Sequence[JobRecord]:
    """Return the running jobs of the current scope, the oldest first."""
    query = sa.select(JobRecord).where(JobRecord.state == JobState.RUNNING).order_by(JobRecord.id).limit(limit)
    columns = JobRecord.id, JobRecord.name, JobRecord.queue, JobRecord.state, JobRecord.started_at, JobRecord.worker
    return db.session.scalars(query.options(load_only(*columns))).all()


def stop(name: str) -> None:
    """Ask a worker to stop, which it sees with its next heartbeat, and record the action. Commits.

    It behaves as after SIGTERM: it fetches no more jobs, and ends when those that run have ended or the grace period is
    over. Its parent, `flask jobs worker`, starts another process in its place.

    Raises:
        NotFoundError: no such process runs.
        ConflictError: it is not a worker.
    """
    is_alive = WorkerProcess.is_alive(LOST_KEEP.total_seconds())
    is_it = WorkerProcess.name == storable(name)
    process = db.session.scalar(sa.select(WorkerProcess).where(is_it, is_alive))
    if process is None:
        raise NotFoundError(f"No worker named {name!r} runs; list them with `flask jobs workers`.")
    if not process.queues:
        raise ConflictError(f"{name} is not a worker with queues: stop it with a signal to process {process.pid}.")
    if process.stop_requested_at is None:
        is_first = WorkerProcess.name == name, WorkerProcess.stop_requested_at.is_(None)
        db.session.execute(sa.update(WorkerProcess).where(*is_first).values(stop_requested_at=database_now()))
        # The name may be longer than the id of a subject: the details have all of it.
        subject = Subject(SUBJECT_TYPE, name[:SUBJECT_ID_CHARACTERS])
        details = {"name": name, "host": process.host, "pid": process.pid}
        with for_school(None):
            current_host().record_action("worker.stop", {subject: None}, details)
    db.session.commit()


def _worker(process: WorkerProcess, now: datetime, jobs: Sequence[JobRecord]) -> Worker:
    silent_seconds, settings = (now - process.heartbeat_at).total_seconds(), current_app.config
    if silent_seconds > settings["RESCUE_AFTER_SECONDS"]:
        state = "lost"
    elif process.stop_requested_at is not None:
        state = "stopping"
    else:
        # One late heartbeat means nothing.
        state = "silent" if silent_seconds > 2 * settings["HEARTBEAT_SECONDS"] else "running"
    return Worker(process, state, jobs)
