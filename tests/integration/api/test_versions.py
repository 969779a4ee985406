"""ETags and conditional requests: two editors do not overwrite each other, on both databases."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from app.accounts import Role
from app.reservations import services
from tests.reservation_factories import bearer, make_reservation, make_user, tomorrow
from tests.simultaneous import at_once

LIST = "/api/v1/reservations"
once_is_enough = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def headers(app):
    return bearer(make_user(Role.STAFF))


@pytest.fixture
def path(app):
    return f"{LIST}/{make_reservation().id}"


@once_is_enough
def test_a_row_has_a_strong_etag_that_changes_with_it(client, headers, path):
    first = client.get(path, headers=headers).headers["ETag"]
    assert first.startswith('"')
    assert client.get(path, headers=headers).headers["ETag"] == first
    changed = client.patch(path, json={"note": "new"}, headers=headers).headers["ETag"]
    assert changed != first
    assert client.get(path, headers=headers).headers["ETag"] == changed


@once_is_enough
def test_a_new_row_has_its_etag_at_once(client, headers):
    made = client.post(LIST, json={"start_time": tomorrow().isoformat()}, headers=headers)
    assert client.get(made.location, headers=headers).headers["ETag"] == made.headers["ETag"]


@once_is_enough
def test_a_get_of_what_the_client_has_is_a_304_without_a_body(client, headers, path):
    etag = client.get(path, headers=headers).headers["ETag"]
    same = client.get(path, headers={**headers, "If-None-Match": f'"other", {etag}'})
    assert (same.status_code, same.data, same.headers["ETag"]) == (304, b"", etag)
    assert client.get(path, headers={**headers, "If-None-Match": '"other"'}).status_code == 200


@once_is_enough
@pytest.mark.parametrize("wrong", ['"other"', "", "nonsense", "W/{etag}", "{etag}x"])
@pytest.mark.parametrize(("method", "body"), [("PATCH", {"note": "mine"}), ("DELETE", None)])
def test_who_has_not_seen_the_present_row_changes_nothing(client, headers, path, wrong, method, body):
    before = client.get(path, headers=headers)
    etag = wrong.replace("{etag}", before.headers["ETag"])
    answer = client.open(path, method=method, json=body, headers={**headers, "If-Match": etag})
    assert (answer.status_code, answer.json["code"]) == (412, 412)
    assert client.get(path, headers=headers).json == before.json


@once_is_enough
@pytest.mark.parametrize("right", ["{etag}", '"other", {etag}', "*"])
@pytest.mark.parametrize(("method", "status"), [("PATCH", 200), ("DELETE", 204)])
def test_who_has_seen_it_changes_it(client, headers, path, right, method, status):
    etag = right.replace("{etag}", client.get(path, headers=headers).headers["ETag"])
    body = {"note": "mine"} if method == "PATCH" else None
    assert client.open(path, method=method, json=body, headers={**headers, "If-Match": etag}).status_code == status


@once_is_enough
def test_a_stale_etag_of_a_row_that_is_not_ones_own_is_a_404(client, path):
    answer = client.patch(path, json={}, headers={**bearer(make_user()), "If-Match": '"other"'})
    assert answer.status_code == 404


def test_of_two_editors_with_the_same_etag_one_wins(app, client, headers, path, monkeypatch):
    update, both_have_passed = services.update, threading.Barrier(2)

    def wait_for_the_other(*args):
        with suppress(threading.BrokenBarrierError):  # the other is held back before it gets here
            both_have_passed.wait(0.5)
        return update(*args)

    monkeypatch.setattr(services, "update", wait_for_the_other)
    etag = client.get(path, headers=headers).headers["ETag"]
    notes = iter(("one", "other"))

    def edit(client):
        return client.patch(path, json={"note": next(notes)}, headers={**headers, "If-Match": etag})

    answers = at_once(app, 2, edit)
    assert sorted(answer.status_code for answer in answers) == [200, 412]
    winner = next(answer for answer in answers if answer.status_code == 200)
    assert client.get(path, headers=headers).json == winner.json
