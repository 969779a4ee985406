"""/api/v1/reservations, on both databases."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.reservations import Reservation, ReservationStatus
from flask_belfry.changes import StatusChange
from flask_belfry.mail import EmailMessage
from tests.reservation_factories import bearer, make_reservation, make_resource, make_user, tomorrow

LIST = "/api/v1/reservations"


class Caller:
    """A client with the token of a user."""

    def __init__(self, client, user) -> None:
        self.client, self.user, self.headers = client, user, bearer(user)

    def __call__(self, method: str, path: str = LIST, **options):
        return self.client.open(path, method=method, headers=self.headers, **options)


@pytest.fixture
def member(client):
    return Caller(client, make_user())


@pytest.fixture
def staff(client):
    return Caller(client, make_user(Role.STAFF))


def test_only_a_start_is_required(member):
    answer = member("POST", json={"start_time": tomorrow().isoformat()})
    assert answer.status_code == 201
    assert answer.location == f"{LIST}/{answer.json['id']}"
    body = answer.json
    assert (body["customer_id"], body["status"], body["duration_minutes"]) == (member.user.id, "pending", 60)
    assert datetime.fromisoformat(body["end_time"]) == tomorrow() + timedelta(hours=1)
    assert datetime.fromisoformat(body["start_time"]).utcoffset() == timedelta(0)
    assert member("GET", answer.location).json == body


def test_a_member_sees_only_their_own_and_a_404_for_those_of_others(member):
    own, theirs = make_reservation(member.user), make_reservation()
    assert [item["id"] for item in member("GET").json["items"]] == [own.id]
    assert member("GET", f"{LIST}?customer_id={theirs.customer_id}").json["items"] == []
    absent = member("GET", f"{LIST}/999999")
    for method, options in (("GET", {}), ("PATCH", {"json": {"status": "cancelled"}}), ("DELETE", {})):
        answer = member(method, f"{LIST}/{theirs.id}", **options)
        assert answer.status_code == 404
        assert answer.json["message"].replace(str(theirs.id), "N") == absent.json["message"].replace("999999", "N")


@pytest.mark.parametrize("id", ["0", "-1", "x", "9" * 5_000, "2147483648"])
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_an_id_that_cannot_be_is_a_404(staff, id, method):
    assert staff(method, f"{LIST}/{id}", json={}).status_code == 404


def test_staff_see_all_in_pages(staff):
    customer = make_user()
    ids = [make_reservation(customer, start_time=tomorrow(9 + n)).id for n in range(5)]
    first = staff("GET", f"{LIST}?limit=3").json
    second = staff("GET", f"{LIST}?limit=3&cursor={first['next_cursor']}").json
    assert [item["id"] for item in first["items"] + second["items"]] == ids[::-1]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("cursor=nonsense", "cursor"),
        ("status=lost", "status"),
        ("color=red", "color"),
        ("starts_from=yesterday", "starts_from"),
        ("customer_id=99999999999", "customer_id"),
        ("text=%00", "text"),
    ],
)
def test_a_wrong_query_is_named(staff, query, field):
    answer = staff("GET", f"{LIST}?{query}")
    assert answer.status_code == 422, answer.text
    assert answer.json["errors"].keys() == {field}


def test_staff_filter_by_everything(staff):
    room = make_resource()
    row = make_reservation(resource_id=room.id, note="cello")
    query = {
        "status": "pending",
        "customer_id": row.customer_id,
        "resource_id": room.id,
        "starts_from": tomorrow().isoformat(),
        "starts_before": tomorrow(23).isoformat(),
        "text": "CELLO",
    }
    assert [item["id"] for item in staff("GET", LIST, query_string=query).json["items"]] == [row.id]


def test_a_status_sets_off_the_mail_and_is_the_users_change(staff, session):
    row = make_reservation()
    answer = staff("PATCH", f"{LIST}/{row.id}", json={"status": "confirmed"})
    assert answer.json["status"] == "confirmed"
    change = session.scalars(sa.select(StatusChange)).one()
    assert change.user_id == staff.user.id
    assert change.request_id == answer.headers["X-Request-Id"]
    assert (
        session.scalar(sa.select(EmailMessage.kind).where(EmailMessage.change_id == change.id)) == "reservation-status"
    )


def test_a_member_confirms_nothing_but_cancels(member):
    own = make_reservation(member.user)
    assert member("PATCH", f"{LIST}/{own.id}", json={"status": "confirmed"}).status_code == 403
    assert member("PATCH", f"{LIST}/{own.id}", json={"status": "cancelled"}).json["status"] == "cancelled"


def test_a_transition_that_is_not_in_the_table_is_a_409_that_names_both(staff):
    row = make_reservation(status=ReservationStatus.COMPLETED)
    answer = staff("PATCH", f"{LIST}/{row.id}", json={"status": "confirmed"})
    assert answer.status_code == 409
    assert "completed" in answer.json["message"]
    assert "confirmed" in answer.json["message"]


def test_the_same_status_again_is_a_200_and_no_change(staff, session):
    row = make_reservation(status=ReservationStatus.COMPLETED)
    answer = staff("PATCH", f"{LIST}/{row.id}", json={"status": "completed"})
    assert (answer.status_code, answer.json["status"]) == (200, "completed")
    assert session.scalars(sa.select(StatusChange)).all() == []


def test_fields_and_status_change_together_or_not_at_all(staff, session):
    row = make_reservation()
    answer = staff("PATCH", f"{LIST}/{row.id}", json={"note": "new", "status": "completed"})
    assert answer.status_code == 409
    session.refresh(row)
    assert row.note == ""
    answer = staff("PATCH", f"{LIST}/{row.id}", json={"note": "new", "status": "confirmed"})
    assert (answer.json["note"], answer.json["status"]) == ("new", "confirmed")


def test_a_double_booking_is_a_409_with_the_fields(member):
    room = make_resource(name="Room 1")
    body = {"start_time": tomorrow().isoformat(), "resource_id": room.id}
    assert member("POST", json=body).status_code == 201
    answer = member("POST", json=body)
    assert answer.status_code == 409
    assert answer.json["message"].startswith("Room 1 is already booked from")
    assert answer.json["errors"].keys() == {"start_time", "resource_id"}


def test_a_member_cannot_reserve_for_others_and_cannot_delete(member, staff, session):
    body = {"start_time": tomorrow().isoformat(), "customer_id": staff.user.id}
    assert member("POST", json=body).status_code == 403
    own = make_reservation(member.user)
    assert member("DELETE", f"{LIST}/{own.id}").status_code == 403
    assert staff("DELETE", f"{LIST}/{own.id}").status_code == 204
    assert session.scalar(sa.select(sa.func.count()).select_from(Reservation)) == 0


def test_resources_are_listed(member):
    names = [make_resource().name for _ in range(2)]
    make_resource(active=False)
    assert [item["name"] for item in member("GET", "/api/v1/resources").json["items"]] == names
