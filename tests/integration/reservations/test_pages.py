"""The pages of reservations, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.reservations import Reservation, ReservationStatus
from flask_belfry.db import db
from tests.reservation_factories import log_in, make_reservation, make_resource, make_user, tomorrow

LIST = "/reservations/"


@pytest.fixture
def staff(client):
    user = make_user(Role.STAFF, time_zone="Europe/Berlin")
    log_in(client, user)
    return user


@pytest.fixture
def member(client):
    user = make_user(time_zone="Europe/Berlin")
    log_in(client, user)
    return user


def typed(start: str = "2030-07-01T10:00", **values) -> dict[str, str]:
    return {"start_time": start, "duration_minutes": "60", "party_size": "2", "resource": "", "note": "", **values}


def only() -> Reservation:
    return db.session.scalars(sa.select(Reservation)).one()


@pytest.mark.parametrize("path", ["", "new", "1", "1/edit", "1/history", "day/2030-01-01"])
def test_every_page_wants_a_login(client, path):
    assert client.get(f"{LIST}{path}").location.startswith("/login?next=/reservations/")


def test_a_member_makes_a_reservation_on_their_own_clock(client, member):
    room = make_resource()
    answer = client.post(f"{LIST}new", data=typed(resource=str(room.id), note="a\r\nb"))
    row = only()
    assert (answer.status_code, answer.location) == (303, f"/reservations/{row.id}")
    assert row.start_time == datetime(2030, 7, 1, 8, tzinfo=UTC)
    assert (row.customer_id, row.resource_id, row.party_size, row.note) == (member.id, room.id, 2, "a\nb")


def test_staff_name_the_customer(client, staff):
    customer = make_user()
    client.post(f"{LIST}new", data=typed(customer=customer.email.upper()))
    assert only().customer_id == customer.id
    answer = client.post(f"{LIST}new", data=typed(customer="nobody"))
    assert answer.status_code == 422
    assert "No user has this username or email address." in answer.text


def test_a_member_cannot_name_another(client, member):
    client.post(f"{LIST}new", data=typed(customer=make_user().email))
    assert only().customer_id == member.id
    assert 'name="customer"' not in client.get(f"{LIST}new").text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"start": ""}, "Enter a start time."),
        ({"start": "2030-03-31T02:30"}, "the clocks of Europe/Berlin go forward"),
        ({"start": "2020-01-01T10:00"}, "Choose a time in the future."),
        ({"note": "a\x00b"}, "Control characters are not allowed."),
        ({"note": "a\x1bb"}, "Control characters are not allowed."),
        ({"start": "0001-01-01T00:00"}, "calendar"),
        ({"start": "soon"}, "Not a valid datetime"),
        ({"duration_minutes": "1"}, "between 15 and 1440"),
        ({"resource": "999"}, "Not a valid choice"),
        ({"party_size": "0"}, "between 1 and 10000"),
    ],
)
def test_errors_are_shown_beside_their_fields(client, member, values, said):
    answer = client.post(f"{LIST}new", data=typed(**values))
    assert answer.status_code == 422
    assert said in answer.text
    assert db.session.scalar(sa.select(sa.func.count()).select_from(Reservation)) == 0


def test_a_taken_room_is_said_beside_the_fields(client, member):
    room = make_resource(name="Room 1")
    assert client.post(f"{LIST}new", data=typed(resource=str(room.id))).status_code == 303
    answer = client.post(f"{LIST}new", data=typed("2030-07-01T10:30", resource=str(room.id)))
    assert answer.status_code == 422
    assert "Room 1 is already booked: Mon 1 Jul 2030, 10:00 to 11:00." in answer.text
    assert "Already booked at that time." in answer.text
    assert "UTC." not in answer.text


def test_the_form_of_a_day_begins_at_nine(client, member):
    assert 'value="2030-05-06T09:00"' in client.get(f"{LIST}new?date=2030-05-06").text
    assert client.get(f"{LIST}new?date=soon").status_code == 200


def test_an_edit_shows_local_time_and_keeps_what_was_not_touched(client, member):
    row = make_reservation(member, start_time=datetime(2030, 10, 27, 1, 30, tzinfo=UTC))
    # 02:30 for the second time that night: the form cannot say so, and must not move it.
    page = client.get(f"{LIST}{row.id}/edit").text
    assert 'value="2030-10-27T02:30"' in page
    answer = client.post(f"{LIST}{row.id}/edit", data=typed("2030-10-27T02:30", note="still the same"))
    assert answer.status_code == 303
    db.session.refresh(row)
    assert (row.start_time, row.note) == (datetime(2030, 10, 27, 1, 30, tzinfo=UTC), "still the same")


def test_an_edit_of_what_has_ended_is_refused_in_words(client, staff):
    row = make_reservation(status=ReservationStatus.CANCELLED)
    answer = client.post(f"{LIST}{row.id}/edit", data=typed())
    assert answer.status_code == 422
    assert "can no longer be changed" in answer.text


def test_the_pages_of_others_do_not_exist(client, member):
    row = make_reservation()
    for path in ("", "/edit", "/history"):
        assert client.get(f"{LIST}{row.id}{path}").status_code == 404
    assert client.post(f"{LIST}{row.id}/status", data={"status": "cancelled"}).status_code == 404
    assert str(row.id) not in client.get(LIST).text.partition("<tbody>")[2].partition("</tbody>")[0]


def test_staff_confirm_and_see_it_in_the_history(client, staff):
    row = make_reservation()
    assert ">Confirm<" in client.get(f"{LIST}{row.id}").text.replace("</svg>", ">")
    answer = client.post(f"{LIST}{row.id}/status", data={"status": "confirmed", "expected_status": "pending"})
    assert answer.status_code == 303
    page = client.get(f"{LIST}{row.id}").text
    assert f"Reservation #{row.id} is confirmed." in page
    assert row.customer.email in page
    history = client.get(f"{LIST}{row.id}/history").text
    assert staff.name in history
    assert "reservation-status" in history
    assert "<html" not in history


def test_a_status_change_from_a_stale_page_is_refused(client, staff):
    row = make_reservation(status=ReservationStatus.CONFIRMED)
    data = {"status": "cancelled", "expected_status": "pending"}
    answer = client.post(f"{LIST}{row.id}/status", data=data, follow_redirects=True)
    assert "is confirmed now, no longer pending" in answer.text
    assert client.post(f"{LIST}{row.id}/status", data={"status": "lost"}).status_code == 422


def test_a_member_is_offered_only_the_cancel(client, member):
    row = make_reservation(member)
    page = client.get(f"{LIST}{row.id}").text
    assert 'value="cancelled"' in page
    assert 'value="confirmed"' not in page
    assert client.post(f"{LIST}{row.id}/status", data={"status": "confirmed"}).status_code == 403


def test_filters_are_in_the_url(client, staff):
    mine = make_reservation(staff, start_time=datetime(2030, 5, 5, 22, 30, tzinfo=UTC), note="cello")
    other = make_reservation(start_time=datetime(2030, 5, 7, 10, tzinfo=UTC), status=ReservationStatus.CONFIRMED)

    def shown(query: str) -> list[int]:
        page = client.get(f"{LIST}?{query}").text
        return [row.id for row in (mine, other) if f'id="reservation-{row.id}"' in page]

    assert shown("") == [mine.id, other.id]
    assert shown("status=confirmed") == [other.id]
    assert shown("mine=1") == [mine.id]
    assert shown("text=CELLO") == [mine.id]
    # 22:30 UTC on the fifth is the sixth in Berlin.
    assert shown("date_from=2030-05-06&date_to=2030-05-06") == [mine.id]
    assert shown("date_to=2030-05-05") == []
    assert client.get(f"{LIST}?cursor=x").status_code == 422


@pytest.mark.parametrize(
    "query", ["status=lost", "date_from=soon", "date_to=9999-12-31", "text=%00", "text=%1B", f"text={'x' * 200}%00"]
)
def test_an_invalid_filter_is_ignored(client, staff, query):
    row = make_reservation(note="x" * 200)
    answer = client.get(f"{LIST}?{query}")
    assert answer.status_code == 200
    assert f'id="reservation-{row.id}"' in answer.text


def test_the_list_begins_with_the_next_reservation_and_ends_with_those_that_have_begun(client, staff):
    begun, later, soon = (make_reservation(start_time=tomorrow() + timedelta(days=days)) for days in (-5, 9, 0))
    page = client.get(LIST).text
    marks = [
        f'id="reservation-{soon.id}"',
        f'id="reservation-{later.id}"',
        "Already begun",
        f'id="reservation-{begun.id}"',
    ]
    assert sorted(marks, key=page.index) == marks
    assert "Already begun" not in client.get(f"{LIST}?date_from={soon.start_time:%Y-%m-%d}").text


def test_the_list_goes_on_behind_a_cursor(client, staff):
    customer = make_user()
    for number in range(30):
        make_reservation(customer, start_time=tomorrow() + timedelta(hours=number))
    page = client.get(LIST).text
    assert page.count('id="reservation-') == 25
    cursor = page.partition("cursor=")[2].partition('"')[0]
    assert client.get(f"{LIST}?cursor={cursor}").text.count('id="reservation-') == 5


def test_the_day_shows_columns_and_the_local_day(client, staff):
    room = make_resource(name="Blue room")
    make_reservation(start_time=datetime(2030, 5, 5, 22, 30, tzinfo=UTC), resource=room)
    make_reservation(start_time=datetime(2030, 5, 6, 10, tzinfo=UTC), status=ReservationStatus.CANCELLED)
    make_reservation(start_time=datetime(2030, 5, 6, 22, tzinfo=UTC))
    page = client.get(f"{LIST}day/2030-05-06").text
    assert "Blue room" in page
    assert "00:30–01:30" in page
    assert "1 reservation" in page
    assert "No resource" not in page


def test_a_member_sees_when_a_room_is_taken_and_not_by_whom(client, member):
    room = make_resource(name="Blue room")
    make_resource(name="Free room")
    own = make_reservation(member, start_time=datetime(2030, 5, 6, 6, tzinfo=UTC), resource=room)
    start = datetime(2030, 5, 6, 10, tzinfo=UTC)
    theirs = make_reservation(make_user(name="Emmy Noether"), start_time=start, resource=room, note="secret")
    closed = make_resource(name="Closed room", active=False)
    make_reservation(start_time=start, resource=closed)
    make_reservation(start_time=start, resource=room, status=ReservationStatus.CANCELLED)
    page = client.get(f"{LIST}day/2030-05-06").text
    assert "Taken" in page
    assert "12:00–13:00" in page
    assert page.count("day-taken") == 1
    assert page.count("Free all day") == 1
    assert "Your reservations: 1 ·" in page
    assert f'href="/reservations/{own.id}"' in page
    for hidden in (f'href="/reservations/{theirs.id}"', "Emmy Noether", theirs.customer.email, "secret", "Closed room"):
        assert hidden not in page


def test_staff_see_whose_a_reservation_is_on_the_day(client, staff):
    make_reservation(start_time=datetime(2030, 5, 6, 10, tzinfo=UTC), resource=make_resource())
    page = client.get(f"{LIST}day/2030-05-06").text
    assert "day-taken" not in page
    assert "1 reservation ·" in page


def test_the_message_of_a_new_reservation_names_who_confirms_it(client, member):
    promise = "the school will confirm or cancel it"
    assert promise in client.post(f"{LIST}new", data=typed(), follow_redirects=True).text
    log_in(app_client := client.application.test_client(), make_user(Role.STAFF))
    answer = app_client.post(f"{LIST}new", data=typed(customer=member.email), follow_redirects=True)
    assert promise not in answer.text
    assert f"Reservation for {member.name} created." in answer.text


def test_how_far_off_it_is_stays_on_one_line(client, member):
    page = client.get(f"{LIST}{make_reservation(member).id}").text
    assert '<span class="faint nowrap">(<time' in page


def test_what_waits_and_has_begun_is_marked_past_on_the_overview(client, staff):
    make_reservation(start_time=tomorrow())
    assert 'class="past"' not in client.get("/").text
    make_reservation(start_time=tomorrow() - timedelta(days=3))
    assert client.get("/").text.count('class="past"') == 1


@pytest.mark.parametrize("day", ["soon", "0001-01-01", "9999-12-31", "2030-13-01"])
def test_a_day_that_cannot_be_is_a_404(client, staff, day):
    assert client.get(f"{LIST}day/{day}").status_code == 404
