"""Bodies that are meant to hurt: too large, too deep, or numbers that are none. All are answered in the one shape."""

from __future__ import annotations

import io

import pytest

from app.api.blueprint import MAX_BODY_BYTES
from tests.reservation_factories import bearer, make_user

LIST, LOGIN = "/api/v1/reservations", "/api/v1/auth/login"
SHAPE = {"code", "status", "message", "errors"}
START = '{"start_time": "2099-01-01T10:00:00Z", %s}'
HUGE = b'{"note": "' + b"x" * MAX_BODY_BYTES + b'"}'

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"note": ' + "[" * 50 + "]" * 50 + "}", 422),
        ("[" * 100_000, 400),
        (START % f'"party_size": {"9" * 5_000}', 400),
        (START % '"party_size": 1e400', 422),
        (START % '"party_size": NaN', 422),
        (START % '"party_size": -Infinity', 422),
        (START % '"party_size": true', 422),
        (START % '"party_size": 1.5', 422),
        (START % '"role": "admin", "school_id": 1', 422),
        (START % '"__proto__": {"status": "confirmed"}', 422),
        ("null", 422),
        ('"text"', 422),
        ("", 422),
    ],
)
def test_a_hostile_body_is_refused(client, body, status):
    headers = {**bearer(make_user()), "Content-Type": "application/json"}
    answer = client.post(LIST, data=body, headers=headers)
    assert (answer.status_code, answer.json.keys()) == (status, SHAPE), answer.text


@pytest.mark.parametrize("path", [LIST, LOGIN])
@pytest.mark.parametrize("more", [{}, {"Idempotency-Key": "a-key"}])
def test_a_body_that_is_too_large_is_a_413(client, path, more):
    headers = {**bearer(make_user()), "Content-Type": "application/json", **more}
    answer = client.post(path, data=HUGE, headers=headers)
    assert (answer.status_code, answer.json.keys()) == (413, SHAPE)


def test_a_body_that_does_not_say_its_size_is_read_no_further_than_the_limit(client):
    headers = {**bearer(make_user()), "Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    environ = {"wsgi.input_terminated": True}
    answer = client.post(LIST, input_stream=io.BytesIO(HUGE), headers=headers, environ_overrides=environ)
    assert (answer.status_code, answer.json.keys()) == (400, SHAPE)  # what was cut off is no JSON
