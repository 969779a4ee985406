"""What can be done with reservations, and by whom, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from app import reservations
from app.accounts import Role
from app.reservations import Filters, Reservation, ReservationStatus
from app.reservations.queries import LIST_KEY, get
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from flask_belfry.db.pagination import page_by_key
from tests.reservation_factories import make_reservation, make_resource, make_user, tomorrow


@pytest.fixture
def member(app):
    return make_user()


@pytest.fixture
def staff(app):
    return make_user(Role.STAFF)


def test_only_a_start_is_required(member):
    made = reservations.create(member, start_time=tomorrow())
    assert (made.customer_id, made.created_by_id, made.status) == (member.id, member.id, ReservationStatus.PENDING)
    assert (made.duration_minutes, made.party_size, made.note, made.resource_id) == (60, 1, "", None)
    assert made.end_time == tomorrow() + timedelta(hours=1)


def test_a_member_cannot_reserve_for_others(member, staff):
    with pytest.raises(ForbiddenError):
        reservations.create(member, start_time=tomorrow(), customer_id=staff.id)


def test_staff_reserve_for_customers(member, staff):
    made = reservations.create(staff, start_time=tomorrow(), customer_id=member.id)
    assert (made.customer_id, made.created_by_id) == (member.id, staff.id)


def test_only_staff_write_down_what_is_past(member, staff):
    past = utc_now() - timedelta(hours=1)
    with pytest.raises(InvalidInputError) as refused:
        reservations.create(member, start_time=past)
    assert refused.value.fields == {"start_time": ["Choose a time in the future."]}
    assert reservations.create(staff, start_time=past).start_time == past


def test_all_wrong_fields_are_named(member):
    room = make_resource(active=False)
    with pytest.raises(InvalidInputError) as refused:
        reservations.create(
            member,
            start_time=datetime(9999, 12, 31, tzinfo=UTC),
            duration_minutes=14,
            party_size=0,
            note="x" * 501,
            resource_id=room.id,
        )
    assert refused.value.fields.keys() == {"start_time", "duration_minutes", "party_size", "note", "resource_id"}


def test_a_party_must_fit_its_resource(member):
    room = make_resource(capacity=4)
    with pytest.raises(InvalidInputError) as refused:
        reservations.create(member, start_time=tomorrow(), resource_id=room.id, party_size=5)
    assert refused.value.fields.keys() == {"party_size"}
    made = reservations.create(member, start_time=tomorrow(), resource_id=room.id, party_size=4)
    with pytest.raises(InvalidInputError):
        reservations.update(member, made, {"party_size": 5})


def test_unknown_resources_and_customers_are_named(staff):
    with pytest.raises(InvalidInputError) as refused:
        reservations.create(staff, start_time=tomorrow(), resource_id=999)
    assert refused.value.fields.keys() == {"resource_id"}
    with pytest.raises(InvalidInputError) as refused:
        reservations.create(staff, start_time=tomorrow(), party_size=10_001)
    assert refused.value.fields.keys() == {"party_size"}
    with pytest.raises(InvalidInputError) as refused:
        reservations.create(staff, start_time=tomorrow(), customer_id=999)
    assert refused.value.fields.keys() == {"customer_id"}


def test_a_member_sees_and_touches_only_their_own(member):
    theirs = make_reservation()
    own = make_reservation(member)
    for for_update in (False, True):
        with pytest.raises(NotFoundError):
            get(member, theirs.id, for_update=for_update)
    for attempt in (
        lambda: reservations.update(member, theirs, {"note": "x"}),
        lambda: reservations.set_status(member, theirs, "cancelled"),
        lambda: reservations.delete(member, theirs),
    ):
        with pytest.raises(ForbiddenError):
            attempt()
    assert list(reservations.page(member, Filters()).items) == [own]
    assert list(reservations.page(member, Filters(customer_id=theirs.customer_id)).items) == []


def test_a_member_cancels_their_own_and_confirms_nothing(member):
    own = make_reservation(member)
    with pytest.raises(ForbiddenError):
        reservations.set_status(member, own, "confirmed")
    reservations.set_status(member, own, "cancelled")
    assert own.status is ReservationStatus.CANCELLED


def test_staff_confirm_and_complete(staff):
    row = make_reservation()
    reservations.set_status(staff, row, "confirmed")
    reservations.set_status(staff, row, "completed")
    assert row.status is ReservationStatus.COMPLETED


@pytest.mark.parametrize("status", ["pending", "confirmed", "completed"])
def test_an_ended_reservation_takes_no_other_status(staff, status):
    row = make_reservation(status=ReservationStatus.CANCELLED)
    with pytest.raises(ConflictError) as refused:
        reservations.set_status(staff, row, status)
    assert "cancelled" in refused.value.message
    assert status in refused.value.message


@pytest.mark.parametrize("status", list(ReservationStatus))
def test_the_same_status_again_changes_nothing(staff, member, session, status):
    row = make_reservation(member, status=status)
    for user in (staff, member):
        reservations.set_status(user, row, status)
    assert row.status is status
    assert not session.dirty
    with pytest.raises(ConflictError, match="no longer"):
        reservations.set_status(staff, row, status, expected="another")


def test_an_unexpected_status_is_a_conflict(staff):
    row = make_reservation(status=ReservationStatus.CONFIRMED)
    with pytest.raises(ConflictError, match="no longer pending"):
        reservations.set_status(staff, row, "cancelled", expected="pending")
    reservations.set_status(staff, row, "cancelled", expected="confirmed")
    assert row.status is ReservationStatus.CANCELLED


def test_a_member_changes_their_own_while_it_is_pending(member, staff):
    own = make_reservation(member)
    reservations.update(member, own, {"note": "new", "start_time": tomorrow(15)})
    assert (own.note, own.end_time) == ("new", tomorrow(16))
    reservations.set_status(staff, own, "confirmed")
    with pytest.raises(ForbiddenError):
        reservations.update(member, own, {"note": "newer"})
    reservations.update(staff, own, {"note": "newer"})
    assert own.note == "newer"


def test_what_has_ended_is_not_changed(staff):
    row = make_reservation(status=ReservationStatus.COMPLETED)
    with pytest.raises(ConflictError):
        reservations.update(staff, row, {"note": "x"})


def test_a_past_start_may_stay_while_something_else_changes(member, session):
    own = make_reservation(member, start_time=utc_now() - timedelta(hours=1))
    reservations.update(member, own, {"note": "late", "start_time": own.start_time})
    assert own.note == "late"


def test_only_staff_delete(member, staff, session):
    own = make_reservation(member)
    with pytest.raises(ForbiddenError):
        reservations.delete(member, own)
    reservations.delete(staff, own)
    session.commit()
    assert session.scalar(sa.select(sa.func.count()).select_from(Reservation)) == 0


def test_filters_narrow_the_list(staff):
    room = make_resource()
    ada = make_user(name="Ada Lovelace")
    first = make_reservation(ada, resource_id=room.id, note="100% cello")
    second = make_reservation(start_time=tomorrow(12), status=ReservationStatus.CONFIRMED)

    def found(**filters):
        return [row.id for row in reservations.page(staff, Filters(**filters)).items]

    assert found() == [second.id, first.id]
    assert found(status="confirmed") == [second.id]
    assert found(resource_id=room.id) == [first.id]
    assert found(customer_id=ada.id) == [first.id]
    assert found(starts_from=tomorrow(11)) == [second.id]
    assert found(starts_before=tomorrow(12)) == [first.id]
    assert found(text="LOVELACE") == [first.id]
    assert found(text="0% ce") == [first.id]
    assert found(text="%") == [first.id]
    assert found(text=f"#{second.id}") == [second.id]
    assert found(text="9" * 30) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 100])
def test_the_desk_sees_the_next_reservation_first_and_what_has_begun_after_the_last(staff, session, clock, limit):
    hours = [1, 5, 72, -1, -30]
    rows = [make_reservation(staff, start_time=utc_now() + timedelta(hours=number)) for number in hours]
    found, cursor = [], None
    while cursor or not found:
        page = reservations.page_next_first(staff, Filters(), limit=limit, cursor=cursor)
        assert 1 <= len(page.items) <= limit
        found, cursor = [*found, *page.items], page.next_cursor
        clock.shift(3_000)  # those that begin meanwhile keep their place
    assert [row.id for row in found] == [row.id for row in rows]


@pytest.mark.parametrize("cursor", ["x", "1~next", "nan~next~", "9e99~begun~", "1~other~", "1~next~x", "~~"])
def test_a_made_up_cursor_of_the_desks_list_is_invalid_input(staff, cursor):
    with pytest.raises(InvalidInputError):
        reservations.page_next_first(staff, Filters(), cursor=cursor)


def test_pages_follow_each_other_without_gaps_also_at_one_start(staff, session):
    customer = make_user()
    ids = [make_reservation(customer, start_time=tomorrow(9 + n // 3)).id for n in range(7)]
    seen, cursor = [], None
    for _ in range(4):
        page = reservations.page(staff, Filters(), limit=2, cursor=cursor)
        seen += [row.id for row in page.items]
        cursor = page.next_cursor
    assert cursor is None
    assert sorted(seen) == ids
    assert seen == sorted(seen, reverse=True)
    upwards = page_by_key(session, sa.select(Reservation), LIST_KEY, limit=100, descending=False)
    assert [row.id for row in upwards.items] == ids


@pytest.mark.parametrize("cursor", ["x", "W10", "e30", "WyIyMDI2IiwxXQ", "bnVsbA", "\ud800", "WzEsMl0", "é" * 10])
def test_a_made_up_cursor_is_invalid_input(staff, cursor):
    with pytest.raises(InvalidInputError) as refused:
        reservations.page(staff, Filters(), cursor=cursor)
    assert refused.value.fields.keys() == {"cursor"}
