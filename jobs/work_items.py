"""Jobs of work items and their schedule."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app import work_items
from flask_belfry.execution import job
from flask_belfry.scheduler import ScheduleEntry


@job("work_items.tell_gathered")
def send_digest(session: Session, item_id: int) -> dict[str, int]:
    """Mails a digest of the changes of an item's status since the last mail."""
    return {"mails": work_items.send_digest(session, item_id)}


@job("work_items.remind_due", timeout_seconds=300, is_singleton=True)
def remind_due(session: Session) -> dict[str, int]:
    """Mails reminders of work items that are due tomorrow or overdue."""
    return {"mails": work_items.remind_due(session)}


SCHEDULE = [
    # Every hour of the day: an item created in the afternoon may be due tomorrow too.
    ScheduleEntry("work_items.remind_due", job="work_items.remind_due", cron="0 8-20 * * *"),
]
