"""The devices of users: API, page, service, and the job that drops silent ones."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from app.personal_data import Person, parts
from app.push import Device, DeviceKind, drop_silent, register, services
from app.push.services import MAX_DEVICES
from flask_belfry.changes import StatusChange
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.outbox import enqueue
from tests.reservation_factories import caller, log_in, make_user

PATH = "/api/v1/me/devices"
FID = "cAbcdefghijklmnopqrst_"


@pytest.fixture
def user(app):
    return make_user()


@pytest.fixture
def call(client, user):
    return caller(client, user, PATH)


def devices(session) -> list[tuple[int, str]]:
    found = [(row.user_id, row.token) for row in session.execute(sa.select(Device.user_id, Device.token))]
    session.rollback()
    return sorted(found)


def test_a_device_is_registered_listed_and_removed(session, call, user):
    answer = call("POST", json={"token": "phone:1", "name": "Pixel"})
    assert answer.status_code == 201
    id = answer.json["id"]
    assert answer.json.keys() == {"id", "kind", "name", "created_at", "last_seen_at"}
    call("POST", json={"kind": "fid", "token": FID})
    assert devices(session) == [(user.id, FID), (user.id, "phone:1")]
    assert [(row["kind"], row["name"]) for row in call("GET").json["items"]] == [("fid", ""), ("token", "Pixel")]
    assert call("DELETE", f"{PATH}/{id}").status_code == 204
    assert call("DELETE", f"{PATH}/{id}").status_code == 404
    assert devices(session) == [(user.id, FID)]


def test_a_known_device_is_seen_again_and_moves_to_the_user_who_is_logged_in(session, call, user):
    other = make_user()
    long_ago = utc_now() - timedelta(days=100)
    session.add(Device(user_id=other.id, kind=DeviceKind.TOKEN, token="phone:1", last_seen_at=long_ago))
    session.commit()
    id = call("POST", json={"token": "phone:1"}).json["id"]
    assert call("POST", json={"token": "phone:1"}).json["id"] == id
    assert devices(session) == [(user.id, "phone:1")]
    assert session.get(Device, id).last_seen_at > utc_now() - timedelta(minutes=1)
    moves = sa.select(StatusChange.old, StatusChange.new).where(StatusChange.subject_type == "device")
    assert session.execute(moves).all() == [(str(other.id), str(user.id))]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"token": ""},
        {"token": "two words"},
        {"token": "ü"},
        {"token": "x" * 501},
        {"kind": "fid", "token": "too-short"},
        {"kind": "fid", "token": FID + "x"},
        {"kind": "fax", "token": "x"},
    ],
)
def test_an_invalid_device_is_refused(session, call, body):
    answer = call("POST", json=body)
    assert answer.status_code == 422
    assert answer.json["errors"].keys() <= {"token", "kind"}
    assert devices(session) == []


def test_a_user_has_a_limited_number_of_devices(session, user):
    for number in range(MAX_DEVICES + 2):
        register(user, DeviceKind.TOKEN, f"phone:{number}").last_seen_at = utc_now() - timedelta(days=50 - number)
        session.commit()
    assert len(devices(session)) == MAX_DEVICES
    assert (user.id, "phone:0") not in devices(session)
    assert (user.id, f"phone:{MAX_DEVICES + 1}") in devices(session)


def test_the_other_of_two_requests_for_one_token_finds_the_device(session, user, monkeypatch):
    register(user, DeviceKind.TOKEN, "phone:1")
    session.commit()
    find, answers = services._find, [None]
    monkeypatch.setattr(services, "_find", lambda token: answers.pop() if answers else find(token))
    other = make_user()
    register(other, DeviceKind.TOKEN, "phone:1")
    session.commit()
    assert devices(session) == [(other.id, "phone:1")]


def test_silent_devices_are_dropped(session, user, work):
    for days in (269, 271):
        seen = utc_now() - timedelta(days=days)
        session.add(Device(user_id=user.id, kind=DeviceKind.TOKEN, token=f"phone:{days}", last_seen_at=seen))
    session.commit()
    enqueue("push.drop_silent_devices")
    session.commit()
    work()
    assert devices(session) == [(user.id, "phone:269")]
    assert drop_silent(session) == 0


def test_the_page_lists_and_removes_devices(session, client, user):
    log_in(client, user)
    assert "No devices" in client.get("/account/devices").text
    id = register(user, DeviceKind.TOKEN, "secret-token", "Pixel <8>").id
    session.commit()
    page = client.get("/account/devices").text
    assert "Pixel &lt;8&gt;" in page
    assert "secret-token" not in page
    answer = client.post(f"/account/devices/{id}/remove")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/account/devices")
    assert devices(session) == []
    assert client.post(f"/account/devices/{id}/remove").status_code == 404


def test_devices_are_exported_without_tokens_and_erased(session, user):
    register(user, DeviceKind.TOKEN, "secret-token", "Pixel")
    session.commit()
    (part,) = [part for part in parts() if part.name == "devices"]
    person = Person(user.id, user.email)
    (exported,) = part.export(person)
    assert exported["name"] == "Pixel"
    assert "secret-token" not in str(exported)
    part.erase(person)
    session.commit()
    assert devices(session) == []


def test_a_token_that_fcm_does_not_issue_is_refused(session, user):
    with pytest.raises(InvalidInputError):
        register(user, DeviceKind.FID, "phone:1")
