"""Periodic jobs for operators: state, next run times, pause, resume and run. The commands and the page use this."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from flask import current_app

from flask_belfry.changes import for_school
from flask_belfry.changes.host import current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import NotFoundError
from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope
from flask_belfry.outbox import JobRecord, Schedule
from flask_belfry.outbox.registry import definition
from flask_belfry.scheduler import ScheduleEntry
from flask_belfry.scheduler import schedule as schedules

NEXT_RUNS = 3


@dataclass(frozen=True)
class PeriodicJob:
    """An entry of the schedule with its state. `last_job` is None if it has not run or its record was pruned."""

    entry: ScheduleEntry
    doc: str
    description: str
    expression: str
    zone: str
    paused_at: datetime | None
    last_tick_at: datetime | None
    last_job: JobRecord | None
    next_runs: list[datetime]


def entries() -> list[ScheduleEntry]:
    """Return the schedule of the current application."""
    return current_app.extensions["schedule"]


def periodic_job(entry: ScheduleEntry, next_runs: int = NEXT_RUNS) -> PeriodicJob:
    """Return an entry with its state; a paused one has no next runs."""
    settings, row = current_app.config, db.session.get(Schedule, entry.name)
    timing, paused_at = entry.timing(settings), row.paused_at if row else None
    runs: list[datetime] = []
    while not paused_at and len(runs) < next_runs:
        runs.append(timing.next_tick(runs[-1] if runs else utc_now()))
    return PeriodicJob(
        entry=entry,
        doc=definition(entry.job).doc,
        description=timing.describe(),
        expression=str(timing),
        zone=entry.zone_name(settings),
        paused_at=paused_at,
        last_tick_at=row.last_tick_at if row else None,
        last_job=_last_job(entry.name),
        next_runs=runs,
    )


def pause(name: str) -> None:
    """Pause a periodic job: its run times pass without a job. Commits. Raises NotFoundError."""
    _set_paused(name, utc_now())


def resume(name: str) -> None:
    """Resume a periodic job, from its next run time. Commits. Raises NotFoundError."""
    # Without this, the run times that passed while no scheduler was running would be caught up.
    schedules.tick(db.session(), _entry(name))
    _set_paused(name, None)


def run_now(name: str) -> str:
    """Enqueue a periodic job outside its run times, as a job of the system. Commits. Raises NotFoundError.

    Returns:
        the id of the job; that of the unfinished job of this entry if there is one.
    """
    entry = _entry(name)
    with for_school(None):
        job_id = schedules.run_now(db.session(), entry)
        current_host().record_action("schedule.run", {schedules.subject_of(name): None})
    db.session.commit()
    return job_id


def _set_paused(name: str, paused_at: datetime | None) -> None:
    schedules.ensure_row(db.session(), _entry(name))
    db.session.execute(sa.update(Schedule).where(Schedule.name == name).values(paused_at=paused_at))
    if paused_at is None:
        current_host().record_action("schedule.resume", {schedules.subject_of(name): None})
    else:
        current_host().record_action("schedule.pause", {schedules.subject_of(name): None})
    db.session.commit()


def _entry(name: str) -> ScheduleEntry:
    entry = next((entry for entry in entries() if entry.name == name), None)
    if entry is None:
        raise NotFoundError(f"There is no periodic job {name!r}; list them with `flask schedule list`.")
    return entry


def _last_job(name: str) -> JobRecord | None:
    subject = schedules.subject_of(name)
    query = sa.select(JobRecord).where(JobRecord.subject_type == subject.type, JobRecord.subject_id == subject.id)
    with use_scope(ALL_TENANTS):  # a job of the system; its time and state are shown to staff too
        return db.session.scalar(query.order_by(JobRecord.id.desc()).limit(1))
