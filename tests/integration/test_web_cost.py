"""What a request costs beside its own work: statements and trips to Redis, counted, on both databases."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta, timezone

import pytest
from redis.connection import AbstractConnection

from app.accounts import Role
from app.reservations import ReservationStatus
from tests.reservation_factories import bearer, make_reservation, make_user, tomorrow

ASKED = Counter(("INSERT status_changes", "INSERT email_messages", "INSERT job_records"))


@pytest.fixture
def patch(client):
    """Changes a reservation through the API, as staff."""
    headers = bearer(make_user(Role.STAFF))
    client.get("/api/v1/reservations", headers=headers)  # once a minute it is recorded that the token was used
    client.post("/api/v1/auth/logout", headers=bearer(make_user()))  # the first write loads the script of its limit

    def patch(id, **body):
        answer = client.patch(f"/api/v1/reservations/{id}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json

    return patch


@pytest.fixture
def trips(monkeypatch):
    """What is sent to Redis from here on: one entry for each time that an answer is waited for."""
    seen: list[object] = []
    send = AbstractConnection.send_packed_command

    def see(self, command, *args, **options):
        if b"belfry:limits" not in repr(command).encode():  # one for each write, see test_limits
            seen.append(command)
        return send(self, command, *args, **options)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", see)
    return seen


def shapes(statements: list[str]) -> list[str]:
    """Each statement's verb and its first table."""
    return [shape(statement.split()) for statement in statements]


def shape(words: list[str]) -> str:
    before_table = {"SELECT": "FROM", "INSERT": "INTO", "UPDATE": "UPDATE"}[words[0]]
    return f"{words[0]} {words[words.index(before_table) + 1]}"


def test_a_status_change_costs_one_insert_of_each_kind_and_one_trip_to_redis(patch, statements, trips):
    id = make_reservation().id
    statements.clear(), trips.clear()
    patch(id, status="confirmed")
    assert shapes(statements) == [
        "SELECT access_tokens",
        "SELECT reservations",  # held until the commit
        "UPDATE reservations",
        "INSERT status_changes",
        "SELECT reservations",  # the customer's address
        "INSERT email_messages",
        "INSERT job_records",
    ]
    assert len(trips) == 1


@pytest.mark.parametrize("body", [{}, {"party_size": 1}, {"note": "", "duration_minutes": 60}])
def test_a_request_that_changes_nothing_writes_nothing_and_leaves_redis_alone(patch, statements, trips, body):
    id = make_reservation().id
    statements.clear(), trips.clear()
    patch(id, **body)
    assert shapes(statements) == ["SELECT access_tokens", "SELECT reservations"]
    assert trips == []


def test_many_changes_in_one_commit_cost_no_more_inserts_and_trips_than_one(session, statements, trips):
    customer = make_user()
    rows = [make_reservation(customer) for _ in range(20)]
    assert [row.status for row in rows] == ["pending"] * 20
    statements.clear(), trips.clear()
    for row in rows:
        row.status = ReservationStatus.CONFIRMED
    session.commit()
    assert Counter(shape for shape in shapes(statements) if shape.startswith("INSERT")) == ASKED
    assert len(trips) == 1


def test_the_answer_that_is_built_without_asking_again_is_what_the_database_has(patch, session):
    id = make_reservation().id
    local = tomorrow(18).astimezone(timezone(timedelta(hours=-7)))
    for body in ({"start_time": local.isoformat(), "duration_minutes": 90, "note": "new"}, {"status": "confirmed"}):
        answered = patch(id, **body)
        session.expire_all()
        assert patch(id) == answered
    assert (answered["status"], answered["note"]) == ("confirmed", "new")
    assert answered["start_time"] == tomorrow(18).isoformat()
