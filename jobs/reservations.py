"""Jobs of reservations and their schedule."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app import reservations
from flask_belfry.execution import job
from flask_belfry.scheduler import ScheduleEntry


@job("reservations.sweep_overdue", queue="default", timeout_seconds=120, is_singleton=True)
def sweep_overdue(session: Session) -> dict[str, int]:
    """Completes confirmed reservations RESERVATION_OVERDUE_MINUTES after their start."""
    return {"completed": reservations.sweep_overdue(session)}


SCHEDULE = [
    ScheduleEntry("reservations.sweep_overdue", job="reservations.sweep_overdue", every="OVERDUE_SWEEP_SECONDS"),
]
