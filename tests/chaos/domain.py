"""What the load asks for besides mails: jobs that leave one row each, and a trigger that keeps every step of a job."""

from __future__ import annotations

import time
import zlib
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base, table_of
from flask_belfry.db.columns import UtcDateTime
from flask_belfry.execution import Limit, RetryPolicy, Snooze, current_job, job
from flask_belfry.outbox import enqueue

CHILD = "/child"
AFTER = "/after"
THEN = "/then"
# The job that fails until it is retried, and one in HOPELESS of which fails always.
BROKEN = "chaos.broken"
HOPELESS = 4
# The limit key that all limited jobs have, and how many of them may run.
LIMIT_KEY = "chaos"
RUNNING = 2


class AuditEvent(Base):
    """One transaction of the load that committed, and the keys of the effects that its jobs must have."""

    __tablename__ = "chaos_deeds"

    key: Mapped[str] = mapped_column(sa.String(80), primary_key=True)
    effects: Mapped[list[str]] = mapped_column(sa.JSON)


class Cancel(Base):
    """A transaction that cancelled a notification."""

    __tablename__ = "chaos_cancels"

    key: Mapped[str] = mapped_column(sa.String(80), primary_key=True)
    notification_id: Mapped[str] = mapped_column(sa.String(40))


class CancelledJob(Base):
    """A job of a notification that a transaction cancelled alone, as on the pages of jobs."""

    __tablename__ = "chaos_cancelled_jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(sa.String(40))


class Effect(Base):
    """What a job did. Nothing in the table keeps a key from coming twice: that is the job system's to do."""

    __tablename__ = "chaos_effects"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(80))
    job_id: Mapped[str] = mapped_column(sa.String(40))
    claim: Mapped[int]
    worker: Mapped[str] = mapped_column(sa.String(80))


class Step(Base):
    """A state that a job record entered, written by the database itself."""

    __tablename__ = "chaos_steps"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(sa.Uuid(as_uuid=False), index=True)
    state: Mapped[str] = mapped_column(sa.String(20))
    claim: Mapped[int]
    worker: Mapped[str | None] = mapped_column(sa.String(80))
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


_STEPS = (
    """
    CREATE FUNCTION chaos_note_step() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO chaos_steps (job_id, state, claim, worker, at)
        VALUES (NEW.id, NEW.state, NEW.claims, NEW.worker, clock_timestamp());
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER chaos_note_step AFTER INSERT OR UPDATE OF state ON job_records
    FOR EACH ROW EXECUTE FUNCTION chaos_note_step()
    """,
)


def create_tables(engine: sa.Engine) -> None:
    """Makes the tables above and the trigger, in a migrated PostgreSQL."""
    Base.metadata.create_all(
        engine, tables=[table_of(model) for model in (AuditEvent, Cancel, CancelledJob, Effect, Step)]
    )
    with engine.begin() as connection:
        for statement in _STEPS:
            connection.execute(sa.text(statement))


@job("chaos.quick")
def quick(session: Session, key: str) -> None:
    """Has its effect at once."""
    _have_effect(session, key)


@job("chaos.slow", queue="bulk", timeout_seconds=60)
def slow(session: Session, key: str, seconds: float) -> None:
    """Takes its time, half of it with an open transaction."""
    time.sleep(seconds / 2)
    _have_effect(session, key)
    session.flush()
    time.sleep(seconds / 2)


@job("chaos.heavy", queue="heavy", timeout_seconds=60)
def heavy(session: Session, key: str, seconds: float) -> None:
    """The same in a process of its own."""
    slow(session, key, seconds)


@job("chaos.flaky", retry=RetryPolicy(delays_seconds=(1, 1, 1)))
def flaky(session: Session, key: str) -> None:
    """Fails the first time, after its effect."""
    _have_effect(session, key)
    session.flush()
    if current_job().claim.attempt == 1:
        raise ConnectionError("the first attempt fails")


@job(BROKEN)
def broken(session: Session, key: str) -> None:
    """Fails finally, until a bulk operation retries it."""
    if current_job().claim.number == 1 or zlib.crc32(key.encode()) % HOPELESS == 0:
        raise ValueError("it is broken")
    _have_effect(session, key)


@job("chaos.chain")
def chain(session: Session, key: str) -> None:
    """Asks for another job."""
    _have_effect(session, key)
    enqueue("chaos.quick", key=key + CHILD)


@job("chaos.limited", limit=Limit(key=LIMIT_KEY, running=RUNNING), timeout_seconds=60)
def limited(session: Session, key: str, seconds: float) -> None:
    """Run with at most one other of its kind."""
    slow(session, key, seconds)


@job("chaos.steps", queue="bulk", timeout_seconds=60)
def steps(session: Session, key: str, pages: int) -> None:
    """Have an effect with each page, and one at the end."""
    for (page,) in current_job().steps(range(pages), size=1):
        _have_effect(session, f"{key}/page{page}")
        session.flush()
        time.sleep(0.2)
    _have_effect(session, key)


@job("chaos.snoozing")
def snoozing(session: Session, key: str) -> None:
    """Snooze the first time, after its effect."""
    _have_effect(session, key)
    session.flush()
    if current_job().claim.snoozes == 0:
        raise Snooze(1, "not yet")


@job("chaos.then")
def then(session: Session, key: str, jobs: int, completed: int, failed: int, cancelled: int) -> None:
    """Follow the jobs of a batch: its effect is what was expected only if all of them had ended."""
    ended = completed + failed + cancelled
    _have_effect(session, key if ended == jobs else f"{key}, which saw {ended} of {jobs} jobs")


def _have_effect(session: Session, key: str) -> None:
    claim: Any = current_job().claim
    session.add(Effect(key=key, job_id=claim.id, claim=claim.number, worker=claim.worker))
