"""The database refuses double booking, by any code and at the same time."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError

from app import reservations
from app.accounts import Role
from app.reservations import Reservation, ReservationStatus
from app.reservations.overlaps import is_overlap
from app.schools import default_school
from flask_belfry.core.errors import ConflictError
from flask_belfry.db import db
from tests.reservation_factories import make_reservation, make_resource, make_user, tomorrow


@pytest.fixture
def room(app):
    return make_resource(name="Room 1")


@pytest.fixture
def staff(app):
    return make_user(Role.STAFF)


def insert(customer_id: int, resource_id: int | None, start, **values) -> None:
    """A row past all of our own code but the table."""
    row = {
        "school_id": default_school().id,
        "customer_id": customer_id,
        "resource_id": resource_id,
        "start_time": start,
        "end_time": start + timedelta(hours=1),
        "status": ReservationStatus.PENDING,
    }
    db.session.connection().execute(sa.insert(Reservation), [row | values])


@pytest.mark.parametrize("minutes", [-59, -30, 0, 30, 59])
def test_the_database_refuses_an_overlapping_insert(session, staff, room, minutes):
    make_reservation(resource=room, start_time=tomorrow())
    with pytest.raises(IntegrityError) as refused:
        insert(staff.id, room.id, tomorrow() + timedelta(minutes=minutes))
    assert is_overlap(refused.value)


@pytest.mark.parametrize("minutes", [-60, 60])
def test_one_may_begin_when_the_other_ends(session, staff, room, minutes):
    make_reservation(resource=room, start_time=tomorrow())
    insert(staff.id, room.id, tomorrow() + timedelta(minutes=minutes))
    session.commit()


def test_other_resources_no_resource_and_ended_ones_are_free(session, staff, room):
    make_reservation(resource=room, start_time=tomorrow())
    make_reservation(start_time=tomorrow())
    insert(staff.id, make_resource().id, tomorrow())
    insert(staff.id, None, tomorrow())
    insert(staff.id, room.id, tomorrow(), status=ReservationStatus.CANCELLED)
    insert(staff.id, room.id, tomorrow(), status=ReservationStatus.COMPLETED)
    session.commit()


@pytest.mark.parametrize("change", ["time", "resource", "end", "status"])
def test_the_database_refuses_an_overlapping_update(session, room, change):
    make_reservation(resource=room, start_time=tomorrow(10))
    other = make_reservation(
        resource=make_resource() if change == "resource" else room,
        start_time=tomorrow(10 if change in ("resource", "status") else 9),
        status=ReservationStatus.CANCELLED if change == "status" else ReservationStatus.PENDING,
    )
    values = {
        "time": {"start_time": tomorrow(10), "end_time": tomorrow(11)},
        "resource": {"resource_id": room.id},
        "end": {"end_time": tomorrow(11)},
        "status": {"status": ReservationStatus.PENDING},
    }[change]
    statement = sa.update(Reservation).where(Reservation.id == other.id).values(values)
    with pytest.raises(IntegrityError) as refused:
        session.connection().execute(statement)
    assert is_overlap(refused.value)


def test_a_reservation_does_not_overlap_itself(session, staff, room):
    row = make_reservation(resource=room, start_time=tomorrow())
    reservations.update(staff, row, {"start_time": tomorrow() + timedelta(minutes=30)})
    reservations.set_status(staff, row, "confirmed")
    session.commit()


def test_the_service_says_what_is_booked_and_when(session, staff, room):
    make_reservation(resource=room, start_time=tomorrow(10))
    with pytest.raises(ConflictError) as refused:
        reservations.create(staff, start_time=tomorrow(10), resource_id=room.id)
    span = f"from {tomorrow(10):%Y-%m-%d} 10:00 to {tomorrow(10):%Y-%m-%d} 11:00 UTC"
    assert refused.value.message == f"Room 1 is already booked {span}."
    assert refused.value.fields.keys() == {"start_time", "resource_id"}
    # The transaction goes on.
    reservations.create(staff, start_time=tomorrow(11), resource_id=room.id)
    session.commit()


def test_a_refused_update_leaves_the_row_as_it_was(session, staff, room):
    make_reservation(resource=room, start_time=tomorrow(10))
    row = make_reservation(resource=room, start_time=tomorrow(12))
    with pytest.raises(ConflictError):
        reservations.update(staff, row, {"start_time": tomorrow(10), "note": "moved"})
    session.commit()
    assert (row.start_time, row.end_time, row.note) == (tomorrow(12), tomorrow(13), "")


def test_of_two_bookings_at_the_same_moment_one_wins(app, session, staff, room):
    """Through the service: eight threads, one place, no deadlock."""
    staff_id, room_id = staff.id, room.id
    session.rollback()
    outcomes: list[str] = []
    start = threading.Barrier(8)

    def book() -> None:
        with app.app_context():
            user = db.session.get(type(staff), staff_id)
            db.session.rollback()
            start.wait()
            try:
                reservations.create(user, start_time=tomorrow(), resource_id=room_id)
                db.session.commit()
                outcomes.append("booked")
            except ConflictError:
                db.session.rollback()
                outcomes.append("refused")
            finally:
                db.session.remove()

    threads = [threading.Thread(target=book) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["booked"] + ["refused"] * 7


def test_of_two_open_transactions_the_database_lets_one_commit(app, session, staff, room):
    """Past the service: both have inserted before either commits (on SQLite the second waits for the first)."""
    staff_id, room_id = staff.id, room.id
    session.rollback()
    outcomes: list[str] = []
    first_has_inserted = threading.Event()

    def first() -> None:
        with app.app_context():
            insert(staff_id, room_id, tomorrow())
            first_has_inserted.set()
            threading.Event().wait(0.3)  # the other is in the middle of its insert by now
            db.session.commit()
            outcomes.append("first booked")
            db.session.remove()

    def second() -> None:
        with app.app_context():
            first_has_inserted.wait(10)
            try:
                insert(staff_id, room_id, tomorrow())
                db.session.commit()
                outcomes.append("second booked")
            except (IntegrityError, OperationalError) as error:
                outcomes.append(f"second refused: {is_overlap(error)}")
            finally:
                db.session.remove()

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["first booked", "second refused: True"]  # either thread may be the first to tell
    assert session.scalar(sa.select(sa.func.count()).select_from(Reservation)) == 1
