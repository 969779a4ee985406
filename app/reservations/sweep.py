"""The sweep, which completes confirmed reservations that have begun."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
import structlog
from flask import current_app
from sqlalchemy.orm import Session

from app.reservations.models import Reservation, ReservationStatus
from flask_belfry.core.clock import utc_now

log = structlog.get_logger(__name__)


def sweep_overdue(session: Session) -> int:
    """Complete all confirmed reservations that began RESERVATION_OVERDUE_MINUTES ago or earlier. The caller commits.

    One statement; its changes are recorded in chunks, so that memory does not grow with the number of rows.

    Returns:
        number of completed reservations.
    """
    begun_before = utc_now() - timedelta(minutes=current_app.config["RESERVATION_OVERDUE_MINUTES"])
    statement = (
        sa.update(Reservation)
        .where(Reservation.status == ReservationStatus.CONFIRMED, Reservation.start_time <= begun_before)
        .values(status=ReservationStatus.COMPLETED)
    )
    result = session.execute(statement, execution_options={"synchronize_session": False})
    completed: int = result.rowcount  # pyright: ignore[reportAttributeAccessIssue]
    log.info("reservations.swept", completed=completed, begun_before=begun_before.isoformat())
    return completed
