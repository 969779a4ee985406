"""Heartbeats in SQL: Redis may be lost at any moment, and the rescuer must not mistake that for a crash."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
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


def beat(session: Session, name: str) -> bool:
    """Record that the process is alive, and commit.

    Returns:
        whether its row exists; a process whose row was pruned must be registered again.
    """
    statement = sa.update(WorkerProcess).where(WorkerProcess.name == name)
    result: Any = session.execute(statement.values(heartbeat_at=database_now(), stopped_at=None))
    session.commit()
    return result.rowcount == 1


@contextmanager
def kept_alive(app: Flask, name: str, kind: str) -> Iterator[None]:
    """Send heartbeats during a block in a process without a worker of ours. Short blocks cost no query."""
    done = threading.Event()

    def beat_regularly() -> None:
        while not done.wait(app.config["HEARTBEAT_SECONDS"]):
            with heartbeat_context(app):
                beat_or_register(name, kind, [])

    threading.Thread(target=beat_regularly, name="heartbeat", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def beat_or_register(name: str, kind: str, queues: Sequence[str]) -> None:
    """Send a heartbeat, also when the process's row was pruned; log an outage of the database."""
    try:
        if not beat(db.session(), name):
            register(db.session(), name, kind, queues)
    except SQLAlchemyError as error:
        db.session.rollback()
        log.warning("heartbeat.late", error=type(error).__name__)


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
