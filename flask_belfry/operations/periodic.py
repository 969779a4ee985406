"""Periodic jobs for operators: state, next run times, pause, resume and run. The commands and the page use this.

Those of the code are seen by all who may see the schedule, those that users made within the current scope.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa
from flask import current_app

from flask_belfry.changes import for_school
from flask_belfry.changes.host import current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.columns import lowest_id, time_of_id
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope
from flask_belfry.operations import custom_schedules
from flask_belfry.outbox import CustomSchedule, JobRecord, Schedule, ScheduleTick, UnknownJobError
from flask_belfry.outbox.models import TickOutcome
from flask_belfry.outbox.registry import definition
from flask_belfry.scheduler import ScheduleEntry, ScheduleError
from flask_belfry.scheduler import schedule as schedules
from flask_belfry.scheduler.custom import CustomEntry, entry_of

NEXT_RUNS = 5
LAST_RUNS = 5
# A run that began later than its run time by more is late: schedulers look at the schedule twice a second.
LATE_AFTER = timedelta(seconds=5)


class RunOutcome(StrEnum):
    """What became of one run time."""

    ON_TIME = "on_time"
    LATE = "late"
    MISSED = "missed"  # it passed without a scheduler, longer ago than the schedule catches up
    PAUSED = "paused"
    OVERLAPPED = "overlapped"  # the previous job had not ended: no other was enqueued


@dataclass(frozen=True)
class Run:
    """A run time that has passed, and the job that it enqueued or found unfinished."""

    at: datetime
    outcome: RunOutcome
    late_seconds: float
    job_id: str | None

    @property
    def is_as_planned(self) -> bool:
        """Whether it ran in time, or was not to run."""
        return self.outcome in (RunOutcome.ON_TIME, RunOutcome.PAUSED)


@dataclass(frozen=True)
class PeriodicJob:
    """An entry of the schedule with its state. `last_job` is None if it has not run or its record was pruned.

    `last_runs` are the latest run times, the newest first. `problem` is why it does not run; `owner` is None for those
    of the code and of the system.
    """

    entry: ScheduleEntry
    doc: str
    description: str
    expression: str
    zone: str
    paused_at: datetime | None
    last_tick_at: datetime | None
    last_job: JobRecord | None
    last_runs: list[Run]
    next_runs: list[datetime]
    problem: str | None = None
    owner: str | None = None

    @property
    def is_custom(self) -> bool:
        """Whether a user made it."""
        return isinstance(self.entry, CustomEntry)


def entries() -> Sequence[ScheduleEntry]:
    """Return the schedule of the current application, and then what users made, by name."""
    rows = db.session.scalars(sa.select(CustomSchedule).order_by(CustomSchedule.name))
    return [*_entries_of_code(), *map(entry_of, rows)]


def get_entry(name: str) -> ScheduleEntry:
    """Return the entry of this name, of the code or within the current scope. Raises NotFoundError."""
    entry = next((entry for entry in _entries_of_code() if entry.name == name), None)
    if entry is None and (row := custom_schedules.find_schedule(name)):
        return entry_of(row)
    if entry is None:
        raise NotFoundError(f"There is no periodic job {name!r}; list them with `flask schedule list`.")
    return entry


def periodic_job(entry: ScheduleEntry, next_runs: int = NEXT_RUNS) -> PeriodicJob:
    """Return an entry with its state; one that is paused or cannot run has no next runs."""
    row = db.session.get(entry.model, entry.name)
    since = row.created_at if isinstance(row, CustomSchedule) else None
    paused_at, problem = row.paused_at if row else None, entry.problem()
    description, expression, runs = problem or "", "", []
    try:
        timing = entry.timing(current_app.config)
        description, expression = timing.describe(), str(timing)
        runs = [] if paused_at or problem else custom_schedules.next_runs(timing, next_runs)
    except ScheduleError:
        pass  # the problem names it
    is_custom = isinstance(entry, CustomEntry)
    return PeriodicJob(
        entry=entry,
        doc=doc_of(entry.job),
        description=description,
        expression=expression,
        zone=entry.zone_name(current_app.config),
        paused_at=paused_at,
        last_tick_at=row.last_tick_at if row else None,
        last_job=_last_job(entry.name, since),
        last_runs=last_runs(entry.name, since),
        next_runs=runs,
        problem=problem,
        owner=current_host().user_name(entry.user_id) if is_custom else None,
    )


def last_runs(name: str, since: datetime | None = None, limit: int = LAST_RUNS) -> list[Run]:
    """Return the latest run times of a schedule, the newest first; `since` leaves out those of a deleted one."""
    query = sa.select(ScheduleTick).where(ScheduleTick.schedule == name)
    if since is not None:
        query = query.where(ScheduleTick.tick_at >= since)
    ticks = db.session.scalars(query.order_by(ScheduleTick.tick_at.desc()).limit(limit))
    return [_run(tick) for tick in ticks]


def pause(name: str) -> None:
    """Pause a periodic job: its run times pass without a job. Commits. Raises NotFoundError."""
    _set_paused(get_entry(name), utc_now())


def resume(name: str) -> None:
    """Resume a periodic job, from its next run time. Commits.

    Raises:
        NotFoundError: there is no such periodic job.
        ConflictError: it cannot run.
    """
    entry = get_entry(name)
    _check_can_run(entry)
    # Without this, the run times that passed while no scheduler was running would be caught up.
    schedules.tick(db.session(), entry)
    _set_paused(entry, None)


def run_now(name: str) -> str:
    """Enqueue a periodic job outside its run times, as a job of the system or of its school. Commits.

    Returns:
        the id of the job; that of the unfinished job of this entry if there is one.

    Raises:
        NotFoundError: there is no such periodic job.
        ConflictError: it cannot run.
    """
    entry = get_entry(name)
    _check_can_run(entry)
    with for_school(school_of(entry)):
        job_id = schedules.run_now(db.session(), entry)
        _record("schedule.run", entry)
    db.session.commit()
    return job_id


def school_of(entry: ScheduleEntry) -> int | None:
    """Return the school of an entry; None for those of the system."""
    return entry.school_id if isinstance(entry, CustomEntry) else None


def _set_paused(entry: ScheduleEntry, paused_at: datetime | None) -> None:
    if entry.model is Schedule:
        schedules.ensure_row(db.session(), entry)
    statement = sa.update(entry.model).where(entry.model.name == entry.name)
    db.session.execute(statement.values(paused_at=paused_at))
    if paused_at is None:
        _record("schedule.resume", entry)
    else:
        _record("schedule.pause", entry)
    db.session.commit()


def _record(action: str, entry: ScheduleEntry) -> None:
    current_host().record_action(action, {schedules.subject_of(entry.name): school_of(entry)})


def _check_can_run(entry: ScheduleEntry) -> None:
    if problem := entry.problem():
        raise ConflictError(f"{entry.name} cannot run. {problem}")


def _entries_of_code() -> list[ScheduleEntry]:
    return current_app.extensions["schedule"]


def doc_of(job: str) -> str:
    """Return the docstring of a job; empty when the running code has no such job."""
    try:
        return definition(job).doc
    except UnknownJobError:
        return ""


def _run(tick: ScheduleTick) -> Run:
    late = max(timedelta(), tick.recorded_at - tick.tick_at)
    if tick.outcome is not TickOutcome.ENQUEUED:
        outcome = RunOutcome(tick.outcome.value)
    elif tick.job_id is not None and time_of_id(tick.job_id) < tick.tick_at:
        outcome = RunOutcome.OVERLAPPED
    else:
        outcome = RunOutcome.LATE if late > LATE_AFTER else RunOutcome.ON_TIME
    return Run(tick.tick_at, outcome, late.total_seconds(), tick.job_id)


def _last_job(name: str, since: datetime | None) -> JobRecord | None:
    """Return the last job of a schedule; `since` leaves out those of a deleted one that had its name."""
    subject = schedules.subject_of(name)
    query = sa.select(JobRecord).where(JobRecord.subject_type == subject.type, JobRecord.subject_id == subject.id)
    if since is not None:
        query = query.where(JobRecord.id >= lowest_id(since), JobRecord.created_at >= since)
    with use_scope(ALL_TENANTS):  # a job of the system; its time and state are shown to staff too
        return db.session.scalar(query.order_by(JobRecord.id.desc()).limit(1))
