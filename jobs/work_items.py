"""The jobs of work items, and their schedule. What they do stands in app/work_items."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app import work_items
from flask_belfry.execution import job
from flask_belfry.scheduler import ScheduleEntry


@job("work_items.tell_gathered")
def send_digest(session: Session, item_id: int) -> dict[str, int]:
    """Asks for the mails that tell of all that has happened to an item's status since the last ones."""
    return {"mails": work_items.send_digest(session, item_id)}


@job("work_items.remind_due", timeout_seconds=300, is_singleton=True)
def remind_due(session: Session) -> dict[str, int]:
    """Mails reminders of work items that are due tomorrow or overdue."""
    return {"mails": work_items.remind_due(session)}


SCHEDULE = [
    # By day, and again each hour: what is made in the afternoon may be due tomorrow too.
    ScheduleEntry("work_items.remind_due", job="work_items.remind_due", cron="0 8-20 * * *"),
]
