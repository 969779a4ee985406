"""The form of a reservation: local times and names on the page, UTC and ids in the service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from flask_wtf import FlaskForm
from wtforms import DateTimeLocalField, Field, IntegerField, SelectField, StringField, TextAreaField
from wtforms.validators import InputRequired, Length, NumberRange, Optional, ValidationError

from app.accounts import find_user
from app.local_time import local_from_utc, utc_from_local
from app.presentation import sentence
from app.reservations.models import (
    DEFAULT_DURATION_MINUTES,
    MAX_DURATION_MINUTES,
    MAX_NOTE_CHARACTERS,
    MAX_PARTY_SIZE,
    MIN_DURATION_MINUTES,
    Reservation,
    Resource,
)
from app.text import CONTROL_CHARACTERS, CONTROL_CHARACTERS_REFUSED

# Browsers leave the seconds out unless they are typed.
LOCAL_FORMATS = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"]
# Of the service's fields, by the form's; the others have one name.
FORM_FIELDS = {"resource_id": "resource", "customer_id": "customer"}


def plain_text(_: FlaskForm, field: Field) -> None:
    """A validator: what the API's fields refuse, a form's refuse too."""
    if CONTROL_CHARACTERS.search(field.data or ""):
        raise ValidationError(CONTROL_CHARACTERS_REFUSED)


class ReservationForm(FlaskForm):
    """A reservation to make or to change."""

    customer = StringField(
        "Customer", [Length(max=254), plain_text], description="Username or email address; empty: you."
    )
    start_time = DateTimeLocalField("Start", [InputRequired("Say when it starts.")], format=LOCAL_FORMATS)
    duration_minutes = IntegerField(
        "Duration",
        [InputRequired("Say how long."), NumberRange(MIN_DURATION_MINUTES, MAX_DURATION_MINUTES)],
        default=DEFAULT_DURATION_MINUTES,
    )
    resource = SelectField("Resource", [Optional()])
    party_size = IntegerField(
        "Party size", [InputRequired("Say how many come."), NumberRange(1, MAX_PARTY_SIZE)], default=1
    )
    note = TextAreaField("Note", [Length(max=MAX_NOTE_CHARACTERS), plain_text])

    def offer(self, resources: Sequence[Resource], present: Resource | None = None) -> None:
        """Fills the choices: what can be reserved, and what is reserved now although it is no longer offered."""
        offered = [*resources]
        if present is not None and present.id not in {resource.id for resource in offered}:
            offered.append(present)
        named = [(str(resource.id), f"{resource.name} (up to {resource.capacity})") for resource in offered]
        self.resource.choices = [("", "None"), *named]

    def values(self, zone: ZoneInfo, present: Reservation | None = None) -> dict[str, Any] | None:
        """What the service takes, or None when a field turns out wrong, which then carries the error.

        Args:
            zone: of the clock that the start was read from.
            present: the reservation that is changed, if one is.
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
            # Browsers send line ends as CR LF (HTML, "constructing the entry list").
            "note": (self.note.data or "").replace("\r\n", "\n").strip(),
        }

    def take_errors(self, message: str, fields: Mapping[str, Sequence[str]]) -> None:
        """Puts a service's refusal beside the fields that it names; what names none goes on top."""
        named = False
        for name, messages in fields.items():
            field = self._fields.get(FORM_FIELDS.get(name, name))
            if field is not None:
                _add_error(field, *map(sentence, messages))
                named = True
        if not named:
            self.form_errors.append(message)

    def _start_time(self, zone: ZoneInfo, present: Reservation | None) -> datetime | None:
        local = self.start_time.data
        assert local is not None, "InputRequired"
        # Unchanged: of the hour that autumn repeats, the form cannot say which one is meant.
        if present is not None and local == local_from_utc(present.start_time, zone).replace(second=0, microsecond=0):
            return present.start_time
        try:
            return utc_from_local(local, zone)
        except ValueError as error:
            _add_error(self.start_time, f"This time {error}.")
            return None

    def _customer_id(self) -> dict[str, int] | None:
        login = (self.customer.data or "").strip()
        if not login:
            return {}
        user = find_user(login)
        if user is None:
            _add_error(self.customer, "No user has this username or email address.")
            return None
        return {"customer_id": user.id}


def _add_error(field: Field, *messages: str) -> None:
    # A tuple until the field was validated.
    field.errors = [*field.errors, *messages]
