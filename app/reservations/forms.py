"""The form of a reservation: local times and names on the page, UTC times and ids for the service."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from wtforms import DateTimeLocalField, SelectField, StringField, TextAreaField
from wtforms.validators import InputRequired, Length, NumberRange, Optional

from app.accounts import find_user
from app.reservations.models import (
    DEFAULT_DURATION_MINUTES,
    MAX_DURATION_MINUTES,
    MAX_NOTE_CHARACTERS,
    MAX_PARTY_SIZE,
    MIN_DURATION_MINUTES,
    Reservation,
    Resource,
)
from app.web.forms import ServiceForm, WholeNumberField, add_error, plain_text, unix_lines
from app.web.local_time import local_from_utc, utc_from_local

# Browsers omit the seconds unless they are entered.
LOCAL_FORMATS = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"]


class ReservationForm(ServiceForm):
    """The form of a new or existing reservation."""

    FORM_FIELDS = {"resource_id": "resource", "customer_id": "customer"}

    customer = StringField(
        "Customer",
        [Length(max=254), plain_text],
        description="Username or email address. Leave empty to reserve for yourself.",
    )
    start_time = DateTimeLocalField("Start", [InputRequired("Enter a start time.")], format=LOCAL_FORMATS)
    duration_minutes = WholeNumberField(
        "Duration",
        [InputRequired("Enter a duration in minutes."), NumberRange(MIN_DURATION_MINUTES, MAX_DURATION_MINUTES)],
        default=DEFAULT_DURATION_MINUTES,
    )
    resource = SelectField("Resource", [Optional()])
    party_size = WholeNumberField(
        "Party size", [InputRequired("Enter a party size."), NumberRange(1, MAX_PARTY_SIZE)], default=1
    )
    note = TextAreaField("Note", [Length(max=MAX_NOTE_CHARACTERS), plain_text])

    def offer(self, resources: Sequence[Resource], present: Resource | None = None) -> None:
        """Fill the choices: active resources, and the current one even if it is not active any more."""
        offered = [*resources]
        if present is not None and present.id not in {resource.id for resource in offered}:
            offered.append(present)
        named = [(str(resource.id), f"{resource.name} (up to {resource.capacity})") for resource in offered]
        self.resource.choices = [("", "None"), *named]

    def values(self, zone: ZoneInfo, present: Reservation | None = None) -> dict[str, Any] | None:
        """Return the arguments of the service, or None if a field is invalid, which then has an error.

        Args:
            zone: the time zone of the start.
            present: the reservation that is changed, or None.
        """
        start_time = self._start_time(zone, present)
        customer = self._customer_id() if "customer" in self else {}
        if start_time is None or customer is None:
            return None
        return customer | {
            "start_time": start_time,
            "duration_minutes": self.duration_minutes.data,
            "resource_id": int(self.resource.data) if self.resource.data else None,
            "party_size": self.party_size.data,
            "note": unix_lines(self.note.data),
        }

    def _start_time(self, zone: ZoneInfo, present: Reservation | None) -> datetime | None:
        local = self.start_time.data
        assert local is not None, "InputRequired"
        # Unchanged: in the repeated hour of autumn, the local time is ambiguous.
        if present is not None and local == local_from_utc(present.start_time, zone).replace(second=0, microsecond=0):
            return present.start_time
        try:
            return utc_from_local(local, zone)
        except ValueError as error:
            add_error(self.start_time, f"This time {error}.")
            return None

    def _customer_id(self) -> dict[str, int] | None:
        login = (self.customer.data or "").strip()
        if not login:
            return {}
        user = find_user(login)
        if user is None:
            add_error(self.customer, "No user has this username or email address.")
            return None
        return {"customer_id": user.id}
