"""What a request costs beside its own work: statements and trips to Redis, counted, on both databases."""

from __future__ import annotations

import re
from collections import Counter
from datetime import timedelta, timezone

import marshmallow as ma
import pytest
import sqlalchemy as sa
from redis.connection import AbstractConnection

from app.accounts import Role
from app.reservations import ReservationStatus
from app.work_items import Task
from tests.reservation_factories import bearer, log_in, make_reservation, make_user, tomorrow
from tests.work_item_factories import make_task

ASKED = Counter(("INSERT status_changes", "INSERT email_messages", "INSERT job_records"))
STATUS_OF_A_TASK = [
    "SELECT work_items",  # held until the commit
    "SELECT work_items",  # the top of the column
    "UPDATE work_items",
    "INSERT status_changes",
    "SELECT status_changes",  # whether a digest is due
    "SELECT (SELECT",  # its recipients
    "INSERT work_item_notices",
    "INSERT email_messages",
    "INSERT job_records",
]


@pytest.fixture
def patch(client):
    """Changes a reservation through the API, as staff."""
    authorization = bearer(make_user(Role.STAFF))
    client.get("/api/v1/reservations", headers=authorization)  # once a minute it is recorded that the token was used
    client.post("/api/v1/auth/logout", headers=bearer(make_user()))  # the first write loads the script of its limit

    def patch(id, if_match=None, **body):
        answer = client.patch(
            f"/api/v1/reservations/{id}",
            json=body,
            headers=authorization | ({"If-Match": if_match} if if_match else {}),
        )
        assert answer.status_code == 200, answer.text
        return answer.json

    return patch


@pytest.fixture
def trips(monkeypatch):
    """What is sent to Redis from here on: one entry for each time that an answer is waited for."""
    seen: list[object] = []
    send = AbstractConnection.send_packed_command

    def see(self, command, *args, **options):
        if b"belfry:limits" not in repr(command).encode():  # one for each write, see test_rate_limits.py
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


def loads_and_writes(statements: list[str]) -> tuple[int, int]:
    """How often one item was read with all its columns, and how often it was written."""
    of_one = re.compile(r"SELECT work_items\.id, work_items\.kind, .*\sWHERE work_items\.id = ", re.DOTALL)
    loads = [each for each in statements if of_one.match(each)]
    locks = [each for each in loads if each.endswith("FOR UPDATE")]
    writes = [each for each in statements if each.startswith("UPDATE work_items")]
    return max(len(loads), len(locks)), len(writes)


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


def test_a_patch_of_fields_and_status_with_if_match_loads_locks_and_writes_its_row_once(patch, statements):
    id = make_reservation().id
    patch(id)
    statements.clear()
    patch(id, if_match="*", note="new", party_size=2, status="confirmed")
    assert shapes(statements)[:3] == ["SELECT access_tokens", "SELECT reservations", "UPDATE reservations"]
    of_changes = ["INSERT status_changes"]  # of all three columns
    address_of_customer = "SELECT reservations"
    mail = [address_of_customer, "INSERT email_messages", "INSERT job_records"]
    assert Counter(shapes(statements)[3:]) == Counter([*of_changes, *mail])


def test_a_patch_of_a_task_loads_locks_and_writes_its_row_once(client, statements):
    headers = {**bearer(make_user(Role.STAFF)), "If-Match": "*"}
    path = f"/api/v1/tasks/{make_task().id}"
    assert client.patch(path, json={}, headers=headers).status_code == 200
    statements.clear()
    assert client.patch(path, json={"status": "DONE"}, headers=headers).status_code == 200
    assert shapes(statements) == ["SELECT access_tokens", *STATUS_OF_A_TASK]
    statements.clear()
    body = {"title": "new", "priority": "HIGH", "status": "TODO"}
    assert client.patch(path, json=body, headers=headers).status_code == 200
    assert loads_and_writes(statements) == (1, 1)


@pytest.mark.parametrize("way", ["edit", "status", "move", "admin action", "admin edit"])
def test_each_page_that_changes_an_item_loads_locks_and_writes_it_once(client, session, statements, way):
    log_in(client, make_user(Role.ADMIN))
    task = make_task(title="Tune the piano")
    facts = {"title": "Tune it", "parent_id": task.parent_id, "reporter_id": task.reporter_id, "priority": "HIGH"}
    path, form = {
        "edit": (f"/work-items/{task.id}/edit", facts),
        "status": (f"/work-items/{task.id}/status", {"status": "DONE"}),
        "move": (f"/work-items/{task.id}/move", {"status": "DONE"}),
        "admin action": ("/admin/work_items/action/", {"action": "set-DONE", "rowid": task.id, "confirmed": "yes"}),
        "admin edit": (f"/admin/work_items/edit/?id={task.id}", {**facts, "status": "DONE"}),
    }[way]
    if way == "admin edit":
        page = client.get(path).text
        form["seen"] = page.partition('name="seen" value="')[2].partition('"')[0]
        form["reporter_id"] = task.reporter.username
    session.rollback()
    statements.clear()
    answer = client.post(path, data=form)
    assert answer.status_code == 303, answer.text
    assert loads_and_writes(statements) == (1, 1)


@pytest.mark.parametrize("way", ["API", "list", "admin action"])
def test_a_change_of_many_items_costs_as_many_statements_as_one(client, session, statements, way):
    user = make_user(Role.ADMIN)
    log_in(client, user)
    costs = []
    for status, number in (("IN_PROGRESS", 1), ("DONE", 20)):
        ids = [make_task().id for _ in range(number)]
        session.rollback()
        statements.clear()
        if way == "API":
            body = {"ids": ids, "changes": {"status": status}}
            assert client.post("/api/v1/tasks/bulk", json=body, headers=bearer(user)).json == {"changed": number}
        elif way == "list":
            form = {"ids": ids, "status": status}
            assert client.post("/work-items/bulk", data=form).status_code == 303
        else:
            form = {"action": f"set-{status}", "rowid": ids, "confirmed": "yes"}
            assert client.post("/admin/work_items/action/", data=form).status_code == 303
        assert set(session.scalars(sa.select(Task.status).where(Task.id.in_(ids)))) == {status}
        costs.append(Counter(shapes(statements)))
    assert costs[0] == costs[1]


def test_the_last_of_many_moved_items_is_on_top_of_its_column(app, client):
    log_in(client, make_user(Role.STAFF))
    above, *moved = [make_task(status="DONE"), *(make_task() for _ in range(3))]
    client.post("/work-items/bulk", data={"ids": [item.id for item in moved], "status": "DONE"})
    assert sorted([above, *moved], key=lambda item: item.position) == [*moved[::-1], above]


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


def test_a_request_instantiates_no_schema(client, monkeypatch):
    row, headers = make_reservation(), bearer(make_user(Role.STAFF))
    url = f"/api/v1/reservations/{row.id}"
    headers["If-Match"] = client.get(url, headers=headers).headers["ETag"]
    assert client.patch(url, json={}, headers=headers).status_code == 200  # the first one of this process
    instantiate, instantiated = ma.Schema.__init__, []
    monkeypatch.setattr(
        ma.Schema, "__init__", lambda self, **options: (instantiated.append(self), instantiate(self, **options))[1]
    )
    assert client.patch(url, json={"note": "new"}, headers=headers).status_code == 200
    assert instantiated == []


def test_a_static_file_costs_no_query_with_any_login(client, statements):
    log_in(client, make_user())
    statements.clear()
    with client.get("/static/app.css") as answer:
        assert answer.status_code == 200
    assert statements == []
