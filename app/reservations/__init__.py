"""Reservations: customers request a resource for a time, staff confirm or cancel, and the history is visible to both.

The public API of the slice: the model, the services that jobs and the demo call, and the DDL of the constraint.
"""

from __future__ import annotations

from flask import Flask

from app.reservations import emails, hooks, personal, rules
from app.reservations.desk import count_waiting, of_day, waiting
from app.reservations.history import history_of
from app.reservations.models import OPEN, TRANSITIONS, Reservation, ReservationStatus, Resource
from app.reservations.overlaps import OVERLAP_DDL, OVERLAP_DROP_DDL
from app.reservations.queries import Filters, page, page_next_first, visible_to
from app.reservations.services import create, delete, set_status, set_status_many, update
from app.reservations.sweep import sweep_overdue
from flask_belfry.core.presentation import register_subject

__all__ = [
    "OPEN",
    "OVERLAP_DDL",
    "OVERLAP_DROP_DDL",
    "TRANSITIONS",
    "Filters",
    "Reservation",
    "ReservationStatus",
    "Resource",
    "count_waiting",
    "create",
    "delete",
    "emails",
    "history_of",
    "hooks",
    "init_app",
    "of_day",
    "page",
    "page_next_first",
    "personal",
    "set_status",
    "set_status_many",
    "sweep_overdue",
    "update",
    "visible_to",
    "waiting",
]

# Importing the slice declares its permissions, its listeners and its mails.
rules.declare()


def init_app(app: Flask) -> None:
    """Let jobs and mails about a reservation link to its page. Must come after `presentation.init_app`."""
    register_subject(app, "reservation", "reservations.detail", "reservation_id")
