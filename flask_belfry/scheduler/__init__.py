"""The scheduler: periodic jobs, delayed jobs, and the rescue of jobs whose worker crashed."""

from flask_belfry.scheduler.cron import ScheduleError
from flask_belfry.scheduler.schedule import ScheduleEntry

__all__ = ["ScheduleEntry", "ScheduleError"]
