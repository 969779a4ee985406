"""The rules of the reservation model, for changes by any code."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from zoneinfo import ZoneInfo

import pytest

from app.reservations import TRANSITIONS, Reservation, ReservationStatus
from app.web.local_time import local_from_utc, utc_from_local
from flask_belfry.core.errors import ConflictError, InvalidInputError

START = datetime(2026, 5, 4, 10, tzinfo=UTC)
ALLOWED = {
    ("pending", "confirmed"),
    ("pending", "cancelled"),
    ("confirmed", "completed"),
    ("confirmed", "cancelled"),
}
PAIRS = list(product(ReservationStatus, ReservationStatus))
BERLIN = ZoneInfo("Europe/Berlin")


def test_the_table_of_transitions_is_exactly_this():
    assert {(old.value, new.value) for old, targets in TRANSITIONS.items() for new in targets} == ALLOWED


@pytest.mark.parametrize(("old", "new"), [pair for pair in PAIRS if pair in ALLOWED or pair[0] == pair[1]])
def test_the_model_takes_allowed_transitions(old, new):
    reservation = Reservation(start_time=START, status=old)
    reservation.status = new
    assert reservation.status == new


@pytest.mark.parametrize(("old", "new"), [pair for pair in PAIRS if pair not in ALLOWED and pair[0] != pair[1]])
def test_the_model_refuses_other_transitions_and_names_both_statuses(old, new):
    reservation = Reservation(start_time=START, status=old)
    with pytest.raises(ConflictError) as refused:
        reservation.status = new
    assert old.value in refused.value.message
    assert new.value in refused.value.message
    assert reservation.status is old


def test_an_unknown_status_is_invalid_input():
    with pytest.raises(InvalidInputError) as refused:
        Reservation(start_time=START, status="lost")
    assert "pending" in refused.value.fields["status"][0]


def test_the_end_follows_from_start_and_duration():
    reservation = Reservation(start_time=START)
    assert reservation.end_time == START + timedelta(minutes=60)
    reservation.duration_minutes = 90
    assert reservation.end_time == START + timedelta(minutes=90)
    reservation.start_time = START + timedelta(days=1)
    assert reservation.end_time == START + timedelta(days=1, minutes=90)


@pytest.mark.parametrize("first", ["start_time", "duration_minutes"])
def test_the_end_follows_in_whatever_order_they_are_given(first):
    values = {"start_time": START, "duration_minutes": 45}
    ordered = {first: values.pop(first), **values}
    assert Reservation(**ordered).end_time == START + timedelta(minutes=45)


def test_a_local_time_that_spring_skips_is_refused():
    with pytest.raises(ValueError, match="clocks of Europe/Berlin go forward"):
        utc_from_local(datetime(2026, 3, 29, 2, 30), BERLIN)  # noqa: DTZ001


def test_of_a_local_time_that_autumn_repeats_the_first_is_meant():
    moment = utc_from_local(datetime(2026, 10, 25, 2, 30), BERLIN)  # noqa: DTZ001
    assert moment == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)


def test_local_times_come_back_as_they_were_typed():
    typed = datetime(2026, 7, 1, 14, 15)  # noqa: DTZ001
    assert local_from_utc(utc_from_local(typed, BERLIN), BERLIN) == typed


def test_a_time_beyond_the_calendar_is_refused():
    with pytest.raises(ValueError, match="calendar"):
        utc_from_local(datetime(1, 1, 1), BERLIN)  # noqa: DTZ001
