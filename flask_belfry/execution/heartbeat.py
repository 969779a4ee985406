"""Heartbeats in SQL: Redis may be lost at any moment, and the rescuer must not mistake that for a crash."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa
import structlog
from flask import Flask, current_app
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from flask_belfry.db import db, heartbeat_context
from flask_belfry.db.columns import database_now
from flask_belfry.execution import attempts
from flask_belfry.execution import claim as claims
from flask_belfry.outbox import JobRecord, WorkerProcess

log = structlog.get_logger(__name__)

_MEMORY = Path("/proc/self/statm")  # of Linux


class Standing(Enum):
    """What a process learns with its heartbeat."""

    UNKNOWN = auto()  # its row was pruned: it must be registered again
    RUNNING = auto()
    STOP_REQUESTED = auto()  # a user asked it to stop


def process_name(kind: str) -> str:
    """Return a name for this process that contains its host and process id, and that no other process has or had."""
    return f"{kind}-{socket.gethostname()[:40]}-{os.getpid()}-{uuid4().hex[:6]}"


def register(session: Session, name: str, kind: str, queues: Sequence[str]) -> None:
    """Record that a process has started, and commit."""
    process = WorkerProcess(
        name=name,
        kind=kind,
        host=socket.gethostname(),
        pid=os.getpid(),
        queues=",".join(queues),
        release=current_app.config["RELEASE"],
    )
    session.merge(process)
    session.commit()


def beat(session: Session, name: str, jobs_done: int | None = None) -> Standing:
    """Record that the process is alive, and commit.

    Args:
        session: a session without changes.
        name: of the process.
        jobs_done: how many jobs it has ended, recorded with the memory that this process uses; None when this is
            another process, which sends the heartbeat for it.
    """
    statement = sa.update(WorkerProcess).where(WorkerProcess.name == name)
    statement = statement.values(heartbeat_at=database_now(), stopped_at=None)
    if jobs_done is not None:
        statement = statement.values(jobs_done=jobs_done, memory_bytes=memory_bytes())
    statement = statement.returning(WorkerProcess.stop_requested_at).execution_options(synchronize_session=False)
    row = session.execute(statement).one_or_none()
    session.commit()
    if row is None:
        return Standing.UNKNOWN
    return Standing.RUNNING if row.stop_requested_at is None else Standing.STOP_REQUESTED


def memory_bytes() -> int | None:
    """Return how much of this process is in memory; None where the system does not have `/proc`."""
    try:
        pages = int(_MEMORY.read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def kept_alive(app: Flask, name: str, kind: str) -> Iterator[None]:
    """Send heartbeats during a block in a process without a worker of ours. Short blocks cost no query."""
    done = threading.Event()

    def beat_regularly() -> None:
        while not done.wait(app.config["HEARTBEAT_SECONDS"]):
            with heartbeat_context(app):
                beat_or_register(name, kind, [], jobs_done=0)

    threading.Thread(target=beat_regularly, name="heartbeat", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def beat_or_register(name: str, kind: str, queues: Sequence[str], jobs_done: int) -> bool:
    """Send a heartbeat, also when the process's row was pruned; log an outage of the database.

    Returns:
        whether a user asked the process to stop.
    """
    try:
        standing = beat(db.session(), name, jobs_done)
        if standing is Standing.UNKNOWN:
            register(db.session(), name, kind, queues)
    except SQLAlchemyError as error:
        db.session.rollback()
        log.warning("heartbeat.late", error=type(error).__name__)
        return False
    return standing is Standing.STOP_REQUESTED


def sign_off(session: Session, name: str) -> None:
    """Record that the process has ended by itself, and commit."""
    session.execute(sa.update(WorkerProcess).where(WorkerProcess.name == name).values(stopped_at=database_now()))
    session.commit()


def is_settled() -> sa.ColumnElement[bool]:
    """Return the condition for a claim old enough that its worker has registered and received the response."""
    return JobRecord.started_at < database_now(-current_app.config["RESCUE_AFTER_SECONDS"])


def recover_orphans(session: Session, name: str, held: Collection[str]) -> int:
    """Interrupt the records that run on this worker according to SQL but are not in flight here, and commit.

    The response to their claim was lost, or their new state could not be written.

    Args:
        session: a session without changes.
        name: this worker's name.
        held: the ids of the jobs in flight.
    """
    mine = claims.claims_of(session, JobRecord.worker == name, is_settled())
    orphans = [claim for claim in mine if claim.id not in held]
    for orphan in orphans:
        attempts.interrupt(session, orphan, f"it is not in flight on {name}")
    session.commit()
    return len(orphans)
