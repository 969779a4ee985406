"""Reservations, in a table of the same columns and indexes as Belfry's; customers are Django's users."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models


class Status(models.TextChoices):
    """The status of a reservation."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


TRANSITIONS = {
    Status.PENDING: {Status.CONFIRMED, Status.CANCELLED},
    Status.CONFIRMED: {Status.COMPLETED, Status.CANCELLED},
    Status.COMPLETED: set(),
    Status.CANCELLED: set(),
}


class Reservation(models.Model):
    """A customer's claim to a time."""

    school_id = models.IntegerField(default=1)
    customer = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", db_index=False)
    resource_id = models.IntegerField(null=True)
    start_time = models.DateTimeField()
    duration_minutes = models.IntegerField(default=60)
    end_time = models.DateTimeField()
    party_size = models.IntegerField(default=1)
    note = models.CharField(max_length=500, default="")
    status = models.CharField(max_length=20, choices=Status.choices, default=Status.PENDING)
    created_by_id = models.IntegerField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    # Set by `from_db`, so that a save knows the old status without a query.
    loaded_status: str | None = None

    class Meta:
        db_table = "reservations"
        indexes = [
            models.Index(fields=["start_time", "id"], name="start_time"),
            models.Index(fields=["customer", "start_time", "id"], name="customer_start_time"),
            models.Index(fields=["status", "start_time", "id"], name="status_start_time"),
            models.Index(fields=["resource_id", "start_time"], name="resource_start_time"),
        ]

    @classmethod
    def from_db(cls, db: Any, field_names: Any, values: Any) -> Reservation:
        """Remembers the status as loaded: the way that Django's documentation shows."""
        instance = super().from_db(db, field_names, values)
        if "status" in field_names:
            instance.loaded_status = instance.status
        return instance
