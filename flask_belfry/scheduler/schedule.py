"""The schedule of periodic jobs: data beside the jobs, reconciled with SQL; every run time is settled exactly once.

`custom.py` has the entries that users make; both kinds tick here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, cast

import sqlalchemy as sa
import structlog
from flask import current_app
from sqlalchemy.orm import Session

from flask_belfry.changes import Subject
from flask_belfry.changes.actor import SUBJECT_ID_CHARACTERS
from flask_belfry.core.clock import utc_now
from flask_belfry.db import insert_ignoring_conflicts, table_of
from flask_belfry.outbox import CustomSchedule, JobRequest, Schedule, ScheduleTick, enqueue_many
from flask_belfry.outbox.models import TickOutcome
from flask_belfry.outbox.registry import definition
from flask_belfry.scheduler.cron import Cron, Every, ScheduleError, Timing, last_tick, ticks_between

log = structlog.get_logger(__name__)

# Of more missed ticks than this only the oldest are recorded, and the newest.
MAX_TICKS_RECORDED = 1_000
# The time in which another scheduler takes over: a tick cannot be too late before.
MIN_CATCH_UP_SECONDS = 15.0
# Names that begin with it belong to users, so that a deploy cannot add one that a user has given.
CUSTOM_PREFIX = "custom."


@dataclass(frozen=True)
class ScheduleEntry:
    """One periodic job of the schedule.

    Args:
        name: fixed and unique; it identifies the schedule when it is paused, and in the history.
        job: the job's name; it is enqueued without arguments.
        every: seconds, or the name of a setting that holds them.
        cron: five fields, in the time of `zone`; set this or `every`.
        zone: an IANA zone; None means TIMEZONE.
        catch_up_seconds: how late a tick may still run, at least 15 s; None means SCHEDULE_CATCH_UP_SECONDS.
    """

    name: str
    job: str
    every: float | str | None = None
    cron: str | None = None
    zone: str | None = None
    catch_up_seconds: float | None = None

    model: ClassVar[type[Schedule] | type[CustomSchedule]] = Schedule

    def timing(self, settings: Mapping[str, Any]) -> Timing:
        """Return its timing under `settings`. Raise ScheduleError when it is invalid."""
        if (self.every is None) == (self.cron is None):
            raise ScheduleError("set either every or cron")
        if self.cron is not None:
            return Cron(self.cron, self.zone_name(settings))
        return Every(self.every_seconds(settings) or 0)

    def every_seconds(self, settings: Mapping[str, Any]) -> float | None:
        """Return its interval; None when it has a cron line."""
        seconds = settings[self.every] if isinstance(self.every, str) else self.every
        return None if seconds is None else float(seconds)

    def zone_name(self, settings: Mapping[str, Any]) -> str:
        """Return the zone of its cron line."""
        return self.zone or settings["TIMEZONE"]

    def catch_up(self, settings: Mapping[str, Any]) -> timedelta:
        """Return how late a tick may still run."""
        seconds = self.catch_up_seconds
        wanted = settings["SCHEDULE_CATCH_UP_SECONDS"] if seconds is None else seconds
        return timedelta(seconds=max(wanted, MIN_CATCH_UP_SECONDS))

    @property
    def job_args(self) -> Mapping[str, Any]:
        """The arguments of its jobs."""
        return {}

    def request(self) -> JobRequest:
        """Return the request for a job. At most one job of a schedule is not finalized."""
        key = None if definition(self.job).is_singleton else f"schedule/{self.name}"
        return JobRequest(self.job_args, unique_key=key, subject=subject_of(self.name))

    def use_owner(self) -> AbstractContextManager[None]:
        """Make the user and the school for whom its jobs run the actor, for a block."""
        return nullcontext()

    def as_stored(self, row: Schedule | CustomSchedule) -> ScheduleEntry:
        """Return the entry as its row has it; one of the code is as the code has it."""
        return self

    def problem(self) -> str | None:
        """Return why it cannot tick; None when it can. One of the code was checked at the start."""
        return None


def check(entries: Sequence[ScheduleEntry], settings: Mapping[str, Any]) -> None:
    """Raise ScheduleError or UnknownJobError when an entry is invalid."""
    names = [entry.name for entry in entries]
    for entry in entries:
        if names.count(entry.name) > 1:
            raise ScheduleError(f"the schedule has two entries named {entry.name!r}")
        if entry.name.startswith(CUSTOM_PREFIX):
            raise ScheduleError(f"schedule {entry.name}: names that begin with {CUSTOM_PREFIX!r} belong to users")
        if required := definition(entry.job).required:
            raise ScheduleError(f"schedule {entry.name}: {entry.job} requires {', '.join(sorted(required))}")
        _check_timing(entry, settings)
        _check_lengths(entry, settings)


def _check_timing(entry: ScheduleEntry, settings: Mapping[str, Any]) -> None:
    try:
        entry.timing(settings).next_tick(utc_now())
    except ScheduleError as error:
        raise ScheduleError(f"schedule {entry.name}: {error}") from error
    except Exception as error:  # a zone that does not exist, a date that never comes
        raise ScheduleError(f"schedule {entry.name} has no next tick: {error}") from error


def _check_lengths(entry: ScheduleEntry, settings: Mapping[str, Any]) -> None:
    for key, value in {"name": entry.name, **_columns(entry, settings)}.items():
        limit = cast(sa.String, table_of(Schedule).c[key].type).length
        if limit and len(value) > limit:
            raise ScheduleError(f"schedule {entry.name}: its {key} is longer than {limit} characters")


def reconcile(session: Session, entries: Sequence[ScheduleEntry]) -> list[str]:
    """Add, change and remove schedules in SQL by name, so that they equal `entries`, and commit.

    Those that users made are left as they are.

    Returns:
        the names of the removed ones.
    """
    settings, now = current_app.config, utc_now()
    known = {row.name: row for row in session.scalars(sa.select(Schedule))}
    for entry in entries:
        wanted = _columns(entry, settings)
        row = known.pop(entry.name, None)
        if row is None:
            ensure_row(session, entry)
            continue
        if (row.timing, row.zone) != (wanted["timing"], wanted["zone"]):
            # The ticks of the new timing begin now.
            row.first_tick_at, row.last_tick_at = now, None
        elif row.settled_until > now:
            _reset_to_now(session, row, now)
        for key, value in wanted.items():
            setattr(row, key, value)
    for gone in known.values():
        session.delete(gone)
    for custom in _ahead(session, now):
        _reset_to_now(session, custom, now)
    session.commit()
    return list(known)


def ensure_row(session: Session, entry: ScheduleEntry) -> None:
    """Insert the row of `entry` unless it exists. The caller commits."""
    row = {"name": entry.name, "first_tick_at": utc_now(), **_columns(entry, current_app.config)}
    insert_ignoring_conflicts(session, Schedule, [row], key="name")


def _ahead(session: Session, now: datetime) -> Iterable[CustomSchedule]:
    settled_until = sa.func.coalesce(CustomSchedule.last_tick_at, CustomSchedule.first_tick_at)
    return session.scalars(sa.select(CustomSchedule).where(settled_until > now).with_for_update())


def _reset_to_now(session: Session, row: Schedule | CustomSchedule, now: datetime) -> None:
    """Settle a schedule until `now` only: its clock was ahead and has been corrected, and no tick would run until then.

    A tick that was enqueued too early stays on record and is not repeated.
    """
    log.warning("schedule.clock_set_back", schedule=row.name, settled_until=row.settled_until.isoformat())
    is_ahead = ScheduleTick.tick_at > now, ScheduleTick.outcome != TickOutcome.ENQUEUED
    session.execute(sa.delete(ScheduleTick).where(ScheduleTick.schedule == row.name, *is_ahead))
    row.last_tick_at = now


def _columns(entry: ScheduleEntry, settings: Mapping[str, Any]) -> dict[str, str]:
    return {"job_name": entry.job, "timing": str(entry.timing(settings)), "zone": entry.zone_name(settings)}


def next_ticks(session: Session, entries: Sequence[ScheduleEntry]) -> dict[str, datetime]:
    """Return the first tick of each entry that has no outcome yet, by the entry's name; it may lie in the past."""
    now, settings = utc_now(), current_app.config
    since = {entry.name: now for entry in entries}
    for model in {entry.model for entry in entries}:
        names = [entry.name for entry in entries if entry.model is model]
        rows: Iterable[Any] = session.scalars(sa.select(model).where(model.name.in_(names)))
        since |= {row.name: row.settled_until for row in rows}
    session.rollback()
    return {entry.name: entry.timing(settings).next_tick(since[entry.name]) for entry in entries}


def tick(session: Session, entry: ScheduleEntry) -> list[datetime]:
    """Settle all ticks of `entry` that are due, in one transaction, and commit.

    The newest within the catch-up window is enqueued, the others are recorded as missed. A tick that another scheduler
    has settled is left out.

    Returns:
        the ticks that were settled by this call.

    Raises:
        ScheduleError: one of them is to be enqueued, and cannot be; none is settled.
    """
    # Locked: a user who changes or pauses it does so before or after.
    row: Any = session.get(entry.model, entry.name, with_for_update=True, populate_existing=True)
    if row is None:
        session.rollback()
        return []
    entry = entry.as_stored(row)
    now, settings = utc_now(), current_app.config
    due = _due_ticks(entry, row, now)
    if not due:
        session.rollback()
        return []
    last, paused_at = due[-1], row.paused_at
    is_wanted = paused_at is None and now - last <= entry.catch_up(settings)
    if is_wanted and (problem := entry.problem()):
        session.rollback()
        raise ScheduleError(problem)
    outcomes = dict.fromkeys(due, TickOutcome.PAUSED if paused_at else TickOutcome.MISSED)
    if is_wanted:
        outcomes[last] = TickOutcome.ENQUEUED
    settled = _record(session, entry.name, outcomes)
    if is_wanted and last in settled:
        _enqueue(session, entry, last)
    if row.last_tick_at is None or row.last_tick_at < last:
        row.last_tick_at = last
    session.commit()
    return sorted(settled)


def run_now(session: Session, entry: ScheduleEntry) -> str:
    """Enqueue a schedule's job outside of its ticks. The caller commits.

    Returns:
        the job's id; the id of the current job when one has not been finalized.
    """
    return enqueue_many(entry.job, [entry.request()], session=session)[0]


def _due_ticks(entry: ScheduleEntry, row: Schedule | CustomSchedule, now: datetime) -> list[datetime]:
    timing, since = entry.timing(current_app.config), row.settled_until
    due = ticks_between(timing, since, now, MAX_TICKS_RECORDED)
    if len(due) == MAX_TICKS_RECORDED:
        log.warning("schedule.many_ticks_missed", schedule=entry.name, since=since.isoformat())
        due[-1] = last_tick(timing, due[-1], now)
    return due


def _record(session: Session, name: str, outcomes: Mapping[datetime, TickOutcome]) -> set[datetime]:
    rows = [{"schedule": name, "tick_at": tick_at, "outcome": outcome} for tick_at, outcome in outcomes.items()]
    return insert_ignoring_conflicts(session, ScheduleTick, rows, key="tick_at")


def _enqueue(session: Session, entry: ScheduleEntry, tick_at: datetime) -> None:
    with entry.use_owner():
        (job_id,) = enqueue_many(entry.job, [entry.request()], session=session)
    statement = sa.update(ScheduleTick).where(ScheduleTick.schedule == entry.name, ScheduleTick.tick_at == tick_at)
    session.execute(statement.values(job_id=job_id))


def subject_of(name: str) -> Subject:
    """Return the subject of the jobs of a schedule."""
    return Subject("schedule", name[:SUBJECT_ID_CHARACTERS])


def prune_ticks(session: Session, before: datetime) -> int:
    """Delete the ticks recorded before a time. The caller commits."""
    result: Any = session.execute(sa.delete(ScheduleTick).where(ScheduleTick.recorded_at < before))
    return result.rowcount
