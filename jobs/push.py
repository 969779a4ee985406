"""Jobs of devices and their schedule."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app import push
from flask_belfry.execution import job
from flask_belfry.scheduler import ScheduleEntry


@job("push.drop_silent_devices", queue="bulk", is_singleton=True)
def drop_silent_devices(session: Session) -> dict[str, int]:
    """Drops devices whose application has not reported itself for PUSH_DEVICE_DAYS."""
    return {"devices": push.drop_silent(session)}


SCHEDULE = [ScheduleEntry("push.drop_silent_devices", job="push.drop_silent_devices", cron="47 3 * * *")]
