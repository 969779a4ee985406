"""Schedules that users make: rows that the scheduler reads in every pass, and ticks like the entries of the code."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from flask_belfry.changes import Actor, use_actor
from flask_belfry.changes.host import current_host
from flask_belfry.core.clock import utc_now
from flask_belfry.outbox import CustomSchedule, JobArgumentError, Schedule, UnknownJobError
from flask_belfry.outbox.registry import JobDefinition, definition
from flask_belfry.scheduler.cron import ScheduleError
from flask_belfry.scheduler.schedule import ScheduleEntry

# The action that the host allows to users who may make schedules. A schedule ticks while its owner is one of them.
CHANGE = "schedule.change"

_COLUMNS = (
    CustomSchedule.name,
    CustomSchedule.job_name,
    CustomSchedule.args,
    CustomSchedule.cron,
    CustomSchedule.every_seconds,
    CustomSchedule.zone,
    CustomSchedule.user_id,
    CustomSchedule.school_id,
)


@dataclass(frozen=True)
class CustomEntry(ScheduleEntry):
    """A schedule that a user made.

    Args:
        args: the arguments of its jobs.
        user_id: its owner, for whom its jobs run; None is the system.
        school_id: the school whose rows its jobs see; None is all schools.
    """

    args: Mapping[str, Any] = field(default_factory=dict)
    user_id: int | None = None
    school_id: int | None = None

    model: ClassVar[type[Schedule] | type[CustomSchedule]] = CustomSchedule

    @property
    def job_args(self) -> Mapping[str, Any]:
        """The arguments of its jobs."""
        return self.args

    def use_owner(self) -> AbstractContextManager[None]:
        """Make its owner and its school the actor, for a block."""
        return use_actor(Actor(self.user_id, school_id=self.school_id))

    def as_stored(self, row: Any) -> CustomEntry:
        """Return the entry as its row has it: a user may have changed it since it was read."""
        return entry_of(row)

    def problem(self) -> str | None:
        """Return why it cannot tick; None when it can."""
        try:
            found = definition(self.job)
            check_may_be_scheduled(found)
            found.check(self.request())
            self.timing(current_app.config).next_tick(utc_now())
        except UnknownJobError:
            return f"The running code has no job {self.job}."
        except JobArgumentError as error:
            return f"Its job does not accept its arguments: {error}."
        except ScheduleError as error:
            return f"{error}."
        if self.school_id is not None and current_host().is_disabled(self.school_id):
            return "Its school is disabled."
        if self.user_id is not None and not current_host().user_may(self.user_id, CHANGE):
            return "Its owner may no longer change the schedule. Another user takes it over by saving it."
        return None


def entry_of(row: Any) -> CustomEntry:
    """Return the entry of a row of `custom_schedules`."""
    return CustomEntry(
        row.name,
        row.job_name,
        every=row.every_seconds,
        cron=row.cron,
        zone=row.zone,
        args=row.args,
        user_id=row.user_id,
        school_id=row.school_id,
    )


def read_entries(session: Session) -> list[CustomEntry]:
    """Return the schedules that users made, by name: one query for some hundred rows at most."""
    found = [entry_of(row) for row in session.execute(sa.select(*_COLUMNS).order_by(CustomSchedule.name))]
    session.rollback()
    return found


def check_may_be_scheduled(found: JobDefinition[..., Any]) -> None:
    """Raise ScheduleError for a job that users cannot schedule: its arguments are stored and shown, and come from a
    form."""
    if found.secrets:
        raise ScheduleError(f"{found.name} has secret arguments, which a schedule would store")
    if found.chunk:
        raise ScheduleError(f"{found.name} runs many records at once, whose arguments are ids that the code enqueues")
