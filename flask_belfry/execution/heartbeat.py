"""A process's signs of life in SQL: Redis may be lost at any moment, and the rescue must not mistake that for death."""

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

from flask_belfry.db import db, signs_of_life_context
from flask_belfry.db.columns import database_now
from flask_belfry.execution import claim as claims
from flask_belfry.outbox import JobRecord, WorkerProcess

log = structlog.get_logger(__name__)


def process_name(kind: str) -> str:
    """A name for this process that tells a person where to look, and that no other process has or had."""
    return f"{kind}-{socket.gethostname()[:40]}-{os.getpid()}-{uuid4().hex[:6]}"


def register(session: Session, name: str, kind: str, queues: Sequence[str]) -> None:
    """Writes down that a process has started. Commits."""
    process = WorkerProcess(name=name, kind=kind, host=socket.gethostname(), pid=os.getpid(), queues=",".join(queues))
    session.merge(process)
    session.commit()


def beat(session: Session, name: str) -> bool:
    """Writes down that the process lives. Commits.

    Returns:
        whether its row was there; a pruned one is to be registered again.
    """
    statement = sa.update(WorkerProcess).where(WorkerProcess.name == name)
    result: Any = session.execute(statement.values(heartbeat_at=database_now(), stopped_at=None))
    session.commit()
    return result.rowcount == 1


@contextmanager
def kept_alive(app: Flask, name: str, kind: str) -> Iterator[None]:
    """Gives signs of life for a block in a process that has no worker of ours around it. Short blocks cost no query."""
    done = threading.Event()

    def keep() -> None:
        while not done.wait(app.config["HEARTBEAT_SECONDS"]):
            with signs_of_life_context(app):
                beat_or_register(name, kind, [])

    keeper = threading.Thread(target=keep, name="keeper", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()


def beat_or_register(name: str, kind: str, queues: Sequence[str]) -> None:
    """Gives a sign of life, also when the process's row was pruned; an outage of the database is told and no more."""
    try:
        if not beat(db.session(), name):
            register(db.session(), name, kind, queues)
    except SQLAlchemyError as error:
        db.session.rollback()
        log.warning("heartbeat.late", error=type(error).__name__)


def sign_off(session: Session, name: str) -> None:
    """Writes down that the process ends on its own. Commits."""
    session.execute(sa.update(WorkerProcess).where(WorkerProcess.name == name).values(stopped_at=database_now()))
    session.commit()


def is_settled() -> sa.ColumnElement[bool]:
    """The condition for a claim that is not so young that its worker may have yet to register, or to get the answer."""
    return JobRecord.started_at < database_now(-current_app.config["RESCUE_AFTER_SECONDS"])


def recover_orphans(session: Session, name: str, held: Collection[str]) -> int:
    """Interrupts records that count as running here although this process does not hold them: the answer to their
    claim was lost on the way, or their end could not be written. Commits.

    Args:
        name: this worker's name.
        held: the ids that it does hold.
    """
    mine = claims.claims_of(session, JobRecord.worker == name, is_settled())
    orphans = [claim for claim in mine if claim.id not in held]
    for orphan in orphans:
        claims.interrupt(session, orphan, f"{name} no longer holds it")
    session.commit()
    return len(orphans)
