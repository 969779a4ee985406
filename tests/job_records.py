"""Queries of tests about jobs and other rows. They leave no transaction open, which would block writers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.outbox import JobAttempt, JobRecord, JobState, enqueue, sweep_batches


def asked(session: Session, name: str = "test.act", **args: Any) -> str:
    """Enqueue a job and commit; return its id."""
    id = enqueue(name, **args)
    session.commit()
    return id


def delayed(session: Session, name: str = "test.echo") -> str:
    """Enqueue a job that is due in an hour and commit; return its id."""
    id = enqueue(name, delay=3600)
    session.commit()
    return id


def read(session: Session, id: str) -> JobRecord:
    """Return a job as it is now, detached from the session."""
    session.rollback()
    record = session.get_one(JobRecord, id, populate_existing=True)
    session.expunge(record)
    session.rollback()
    return record


def state_of(session: Session, id: str) -> JobState:
    """Return the state of a job."""
    session.rollback()
    state = session.scalars(sa.select(JobRecord.state).where(JobRecord.id == id)).one()
    session.rollback()
    return state


def state_is(session: Session, id: str, *states: JobState) -> Callable[[], bool]:
    """Return a condition to wait for: the job is in one of these states."""

    def reached() -> bool:
        return state_of(session, id) in states

    reached.__name__ = f"state of {id} in {states}"
    return reached


def attempts_of(session: Session, id: str) -> list[JobAttempt]:
    """Return the recorded attempts of a job in their order."""
    found = list(session.scalars(sa.select(JobAttempt).where(JobAttempt.job_id == id).order_by(JobAttempt.id)))
    session.rollback()
    return found


def count(session: Session, model: type, *conditions: sa.ColumnElement[bool]) -> int:
    """Return how many rows of a model meet the conditions."""
    found = session.scalar(sa.select(sa.func.count()).select_from(model).where(*conditions))
    session.rollback()
    return found or 0


def working_with_sweeps(work: Callable[[], None], session: Session) -> Callable[[], None]:
    """Return a function that works as a worker and the scheduler do: two last jobs may not see each other's end."""

    def run() -> None:
        work()
        if sweep_batches(session):
            work()

    return run


def waits_for_lock(session: Session | sa.Connection) -> bool:
    """Return whether a transaction of this PostgreSQL database waits for another one."""
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    found = session.execute(sa.text(query)).first()
    session.rollback()  # within a transaction the answer stays the same
    return found is not None
