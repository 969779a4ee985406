"""The jobs of reservations, and their schedule. What they do stands in app/reservations."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app import reservations
from flask_belfry.execution import job
from flask_belfry.scheduler import ScheduleEntry


@job("reservations.sweep_overdue", queue="default", timeout_seconds=120, is_singleton=True)
def sweep_overdue(session: Session) -> dict[str, int]:
    """Completes confirmed reservations that began long enough ago."""
    return {"completed": reservations.sweep_overdue(session)}


SCHEDULE = [
    ScheduleEntry("reservations.sweep_overdue", job="reservations.sweep_overdue", every="OVERDUE_SWEEP_SECONDS"),
]
