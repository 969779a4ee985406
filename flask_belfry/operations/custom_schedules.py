"""Schedules that users make: created, changed and deleted at run time, with every value checked.

The caller checks the permission `schedule.change`. All of them are audited.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any, cast
from zoneinfo import available_timezones

import sqlalchemy as sa
from flask import current_app

from flask_belfry.changes import current_actor
from flask_belfry.changes.actor import SUBJECT_ID_CHARACTERS
from flask_belfry.changes.host import current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, InvalidInputError, NotFoundError
from flask_belfry.db import db, insert_ignoring_conflicts
from flask_belfry.db.columns import is_storable
from flask_belfry.operations.job_parameters import problems_of_args
from flask_belfry.outbox import CustomSchedule, UnknownJobError
from flask_belfry.outbox.models import CRON_CHARACTERS
from flask_belfry.outbox.registry import JobDefinition, definition, definitions
from flask_belfry.scheduler import ScheduleError
from flask_belfry.scheduler import schedule as schedules
from flask_belfry.scheduler.cron import Cron, Every, Timing
from flask_belfry.scheduler.custom import CustomEntry, check_may_be_scheduled, entry_of
from flask_belfry.scheduler.schedule import CUSTOM_PREFIX

# The scheduler reads all of them twice a second.
MAX_SCHEDULES = 200
MIN_SECONDS, MAX_SECONDS = 10, 366 * 86_400
PREVIEWED_RUNS = 5
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_Problems = dict[str, list[str]]


@dataclass(frozen=True)
class Draft:
    """What a user enters of a schedule, not yet checked.

    Args:
        name: lower-case letters and digits, joined by dots, hyphens or underscores; `custom.` is prefixed.
        job: the name of a registered job.
        args: the arguments of its jobs.
        cron: five fields in the time of `zone`; this or `every_seconds` is given.
        every_seconds: the interval, counted from 1970-01-01 UTC.
        zone: an IANA time zone; empty means TIMEZONE.
        school_id: the school whose rows its jobs see, and whose staff see it; None is all schools and admins.
    """

    name: str = ""
    job: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    cron: str | None = None
    every_seconds: int | None = None
    zone: str = ""
    school_id: int | None = None

    @property
    def full_name(self) -> str:
        """The name with its prefix."""
        return self.name if self.name.startswith(CUSTOM_PREFIX) else CUSTOM_PREFIX + self.name


def schedulable_jobs() -> list[JobDefinition[..., Any]]:
    """Return the jobs that users may schedule, by name."""
    return [found for found in definitions() if _job_problem(found) is None]


def get_schedule(name: str) -> CustomSchedule:
    """Return the schedule of this name, within the current scope. Raises NotFoundError."""
    row = find_schedule(name)
    if row is None:
        raise NotFoundError(f"There is no schedule {name!r} that a user made; list them with `flask schedule list`.")
    return row


def find_schedule(name: str, *, for_update: bool = False) -> CustomSchedule | None:
    """Return the schedule of this name, within the current scope, or None."""
    if not is_storable(name):
        return None
    return db.session.get(CustomSchedule, name, with_for_update=for_update, populate_existing=for_update)


def draft_of(row: CustomSchedule) -> Draft:
    """Return what was entered of a schedule."""
    return Draft(row.name, row.job_name, row.args, row.cron, row.every_seconds, row.zone, row.school_id)


def lock_schedule(name: str) -> CustomSchedule:
    """Return the schedule of this name with its current values, locked until the commit. Raises NotFoundError."""
    return find_schedule(name, for_update=True) or get_schedule(name)


def version_of(entry: CustomEntry) -> str:
    """Return the version of what users enter of a schedule: a hash, which another value changes and a run does not."""
    values = entry.job, dict(entry.args), entry.every, entry.cron, entry.zone, entry.school_id
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def check(draft: Draft, *, is_new: bool) -> None:
    """Raise InvalidInputError with the problems of all values; the name counts only for a new schedule."""
    problems = (_name_problems(draft) if is_new else {}) | _args_problems(draft) | _timing(draft)[1]
    if draft.school_id is not None and draft.school_id not in current_host().schools():
        problems["school"] = ["there is no such school"]
    if problems:
        raise _invalid(problems)


def create(draft: Draft) -> CustomSchedule:
    """Create a schedule of the current user. Commits.

    Raises:
        InvalidInputError: a value is invalid, or the name is taken.
        ConflictError: there are MAX_SCHEDULES already.
    """
    check(draft, is_new=True)
    if (db.session.scalar(sa.select(sa.func.count()).select_from(CustomSchedule)) or 0) >= MAX_SCHEDULES:
        raise ConflictError(f"There are {MAX_SCHEDULES} schedules that users made: delete one first.")
    now = utc_now()
    row = _columns(draft) | {"name": draft.full_name, "created_at": now, "first_tick_at": now}
    if not insert_ignoring_conflicts(db.session(), CustomSchedule, [row], key="name"):
        raise _invalid({"name": [f"{draft.full_name} exists already"]})
    _record("schedule.create", draft.full_name, {draft.school_id})
    db.session.commit()
    return get_schedule(draft.full_name)


def update(name: str, draft: Draft) -> CustomSchedule:
    """Change a schedule to `draft`, whose name does not count; the current user becomes its owner. Commits.

    Its run times begin again when its timing changes, or when it could not tick before.

    Raises:
        NotFoundError: there is no such schedule.
        InvalidInputError: a value is invalid.
    """
    row = lock_schedule(name)
    check(draft, is_new=False)
    schools, columns = {row.school_id, draft.school_id}, _columns(draft)
    is_retimed = any(getattr(row, name) != columns[name] for name in ("cron", "every_seconds", "zone"))
    if is_retimed or entry_of(row).problem():
        row.first_tick_at, row.last_tick_at = utc_now(), None
    for column, value in columns.items():
        setattr(row, column, value)
    _record("schedule.update", name, schools)
    db.session.commit()
    return row


def delete(name: str) -> None:
    """Delete a schedule. Its jobs remain, also those that wait. Commits. Raises NotFoundError."""
    row = lock_schedule(name)
    db.session.delete(row)
    _record("schedule.delete", name, {row.school_id})
    db.session.commit()


def timing_of(draft: Draft) -> Timing:
    """Return the run times of a draft. Raises InvalidInputError."""
    timing, problems = _timing(draft)
    if timing is None:
        raise _invalid(problems)
    return timing


@cache
def known_zones() -> frozenset[str]:
    """Return the names of all time zones, which are read from files."""
    return frozenset(available_timezones())


def next_runs(timing: Timing, count: int = PREVIEWED_RUNS) -> list[datetime]:
    """Return the next run times."""
    runs: list[datetime] = []
    while len(runs) < count:
        runs.append(timing.next_tick(runs[-1] if runs else utc_now()))
    return runs


def _columns(draft: Draft) -> dict[str, Any]:
    return {
        "job_name": draft.job,
        "args": dict(draft.args),
        "cron": draft.cron and " ".join(draft.cron.split()),
        "every_seconds": draft.every_seconds,
        "zone": _zone(draft),
        "user_id": current_actor().user_id,
        "school_id": draft.school_id,
    }


def _zone(draft: Draft) -> str:
    return draft.zone or current_app.config["TIMEZONE"]


def _record(action: str, name: str, schools: set[int | None]) -> None:
    # A schedule that passes from one school to another is in the log of both.
    for school_id in schools:
        current_host().record_action(action, {schedules.subject_of(name): school_id})


def _invalid(problems: Mapping[str, Sequence[str]]) -> InvalidInputError:
    return InvalidInputError("The schedule is invalid.", {name: list(messages) for name, messages in problems.items()})


def _name_problems(draft: Draft) -> _Problems:
    if not _NAME.fullmatch(draft.full_name.removeprefix(CUSTOM_PREFIX)):
        return {"name": ["must be lower-case letters and digits, joined by dots, hyphens or underscores"]}
    if len(draft.full_name) > SUBJECT_ID_CHARACTERS:
        return {"name": [f"must have at most {SUBJECT_ID_CHARACTERS - len(CUSTOM_PREFIX)} characters"]}
    if find_schedule(draft.full_name) is not None:
        return {"name": [f"{draft.full_name} exists already"]}
    return {}


def _job_problem(found: JobDefinition[..., Any]) -> str | None:
    try:
        check_may_be_scheduled(found)
    except ScheduleError as error:
        return str(error)
    return None


def _args_problems(draft: Draft) -> _Problems:
    try:
        found = definition(draft.job)
    except UnknownJobError:
        return {"job": [f"{draft.job!r} is not a job: select one" if draft.job else "is required"]}
    if problem := _job_problem(found):
        return {"job": [problem]}
    return problems_of_args(found, draft.args)


def _timing(draft: Draft) -> tuple[Timing | None, _Problems]:
    """Return the timing, or None and the problems."""
    if (draft.cron is None) == (draft.every_seconds is None):
        return None, {"cron": ["enter either a cron line or an interval"]}
    if _zone(draft) not in known_zones():
        return None, {"zone": [f"{draft.zone!r} is not a time zone such as Europe/Berlin"]}
    if draft.cron is None:
        seconds = cast(int, draft.every_seconds)
        if not MIN_SECONDS <= seconds <= MAX_SECONDS:
            longest = timedelta(seconds=MAX_SECONDS).days
            return None, {"every_seconds": [f"must be between {MIN_SECONDS} seconds and {longest} days"]}
        return Every(seconds), {}
    if len(draft.cron) > CRON_CHARACTERS:
        return None, {"cron": [f"must have at most {CRON_CHARACTERS} characters"]}
    try:
        timing = Cron(draft.cron, _zone(draft))
        timing.next_tick(utc_now())
    except ScheduleError as error:
        return None, {"cron": [str(error)]}
    return timing, {}
