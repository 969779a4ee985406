"""The scheduler: periodic jobs, delayed jobs, and the rescue of jobs whose worker died."""

from flask_belfry.scheduler.errors import ScheduleError
from flask_belfry.scheduler.schedule import ScheduleEntry

__all__ = ["ScheduleEntry", "ScheduleError"]
