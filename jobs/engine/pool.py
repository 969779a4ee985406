"""Several workers under one parent that replaces those that die: RQ's pool, whose children cannot miss a signal."""

from __future__ import annotations

import multiprocessing
import signal
import socket
from typing import Any

import sqlalchemy as sa
import structlog
from rq.worker_pool import WorkerData, WorkerPool
from sqlalchemy.exc import SQLAlchemyError

from app.extensions import db
from app.outbox import JobRecord, WorkerProcess
from jobs.engine import claim as claims
from jobs.engine import heartbeat
from jobs.engine.application import application
from jobs.engine.deaths import cause_of_death, follow

log = structlog.get_logger(__name__)

STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}


class Pool(WorkerPool):
    """RQ's pool.

    A child begins with its parent's signal handlers. A signal that came before it has its own would stop its siblings
    and not itself, and the pool would wait for it for ever: so signals wait until `accept_stop_signals`.
    """

    def start_worker(self, *args: Any, **kwargs: Any) -> None:
        """Forks a worker with the stop signals held back."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            super().start_worker(*args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def handle_dead_worker(self, worker_data: WorkerData) -> None:
        """Called when a worker has ended: what it still held was interrupted and goes back to the queue at once."""
        super().handle_dead_worker(worker_data)
        cause = cause_of_death(worker_data.process.exitcode or 0)
        with application().app_context():
            try:
                _bury(worker_data.pid, cause)
            except SQLAlchemyError as error:
                log.warning("rescue.later", process=worker_data.pid, error=type(error).__name__)


def accept_stop_signals() -> None:
    """Called by a worker when it has handlers for them. For one of a pool, the pool's death is such a signal."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    pool = multiprocessing.parent_process()
    if pool is not None and pool.pid is not None:
        # Whoever starts the pool anew would otherwise have two of them.
        follow(pool.pid, signal.SIGTERM)


def _bury(pid: int, cause: str) -> None:
    session = db.session()
    is_the_dead = WorkerProcess.host == socket.gethostname(), WorkerProcess.pid == pid
    names = sa.select(WorkerProcess.name).where(*is_the_dead, WorkerProcess.stopped_at.is_(None))
    for name in list(session.scalars(names)):
        for claim in claims.claims_of(session, JobRecord.worker == name):
            state = claims.interrupt(session, claim, f"worker {name} (process {pid}) died: {cause}")
            log.warning("job.interrupted", job=claim.name, job_id=claim.id, worker=name, cause=cause, state=state)
        heartbeat.sign_off(session, name)
