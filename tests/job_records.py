"""What tests ask about jobs and other rows: read anew, and no transaction left open that would keep writers waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.outbox import JobAttempt, JobRecord, JobState, enqueue


def asked(session: Session, name: str = "test.act", **args: Any) -> str:
    """Asks for a job and commits; returns its id."""
    id = enqueue(name, **args)
    session.commit()
    return id


def read(session: Session, id: str) -> JobRecord:
    """A job as it is now, cut off from the session."""
    session.rollback()
    record = session.get_one(JobRecord, id, populate_existing=True)
    session.expunge(record)
    session.rollback()
    return record


def state_of(session: Session, id: str) -> JobState:
    """The state of a job."""
    session.rollback()
    state = session.scalars(sa.select(JobRecord.state).where(JobRecord.id == id)).one()
    session.rollback()
    return state


def state_is(session: Session, id: str, *states: JobState) -> Callable[[], bool]:
    """A condition to wait for: the job is in one of these states."""

    def reached() -> bool:
        return state_of(session, id) in states

    reached.__name__ = f"state of {id} in {states}"
    return reached


def attempts_of(session: Session, id: str) -> list[JobAttempt]:
    """The attempts of a job that are on record, in their order."""
    found = list(session.scalars(sa.select(JobAttempt).where(JobAttempt.job_id == id).order_by(JobAttempt.id)))
    session.rollback()
    return found


def count(session: Session, model: type, *conditions: sa.ColumnElement[bool]) -> int:
    """How many rows of a model meet the conditions."""
    found = session.scalar(sa.select(sa.func.count()).select_from(model).where(*conditions))
    session.rollback()
    return found or 0
