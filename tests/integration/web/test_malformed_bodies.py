"""Malformed, forbidden and oversized bodies, sent to every form and every endpoint."""

from __future__ import annotations

import io

import pytest
import sqlalchemy as sa
from flask import Flask

from app.accounts import Role
from app.api.errors import MAX_FIELDS, MAX_MESSAGE_CHARACTERS, MAX_MESSAGES
from app.api.parsing import MAX_VALUES
from app.notifications.api import MAX_CONTENT_BYTES
from app.web.bodies import MAX_BODY_BYTES
from app.work_items import Kind, WorkItem
from app.work_items.models import MAX_DESCRIPTION_CHARACTERS
from flask_belfry.mail.bounces import MAX_MESSAGE_BYTES
from tests.reservation_factories import bearer, log_in, make_user
from tests.url_rules import routes, rows

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
RESERVATIONS, TOKENS = "/api/v1/reservations", "/api/v1/me/tokens"
SHAPE = {"code", "status", "message", "errors"}
# They take no body, so nothing in it can be wrong but its size.
WITHOUT_BODY = (
    *("api_accounts.logout", "api_jobs.retry_job", "api_jobs.cancel_job", "api_jobs.cancel_batch"),
    *("api_jobs.run_job", "api_jobs.stop_worker", "api_jobs.stop_operation", "api_jobs.undo_operation"),
    *(f"api_jobs.{verb}_failure" for verb in ("see", "resolve", "ignore", "reopen")),
    *("api_notifications.cancel_notification", "api_notifications.retry_notification"),
    *("api_notifications.mark_read", "api_notifications.mark_all_read"),
    *("api_jobs.pause_schedule", "api_jobs.resume_schedule", "api_jobs.run_schedule"),
    *(f"api_{kind.plural}.watch" for kind in Kind),
    *("api_schools.disable_school", "api_schools.enable_school", "api_mails.resend", "api_mails.confirm_sent"),
)
# Their authority is a signed token in the path, and a bearer token.
WITHOUT_SESSION = ("unsubscribing.unsubscribe", "bounces.receive")
# They accept as many values as a notification may have targets.
OF_MANY_VALUES = tuple(
    f"api_notifications.{view}"
    for view in (
        *("send_notification", "send_in_bulk", "preview_notification", "schedule_notification", "change_scheduled"),
    )
)
# All of their fields have defaults.
WITH_OPTIONAL_BODY = ("api_jobs.retry_batch", "api_jobs.retry_failure")


@pytest.fixture
def settings(settings):
    """Rate limits are off: web/test_rate_limits.py is about them."""
    return settings | {"RATE_LIMITS_ENABLED": "false"}


@pytest.mark.parametrize("role", [None, Role.ADMIN])
def test_every_form_wants_a_csrf_token(app, client, session, role):
    if role:
        log_in(client, make_user(role))
    app.config["WTF_CSRF_ENABLED"] = True
    before, asked = rows(session), routes(app, "POST", "PUT", "PATCH", "DELETE", is_api=False)
    assert len(asked) > 20
    for endpoint, method, path in asked:
        if endpoint in WITHOUT_SESSION:
            continue
        for form in ({}, {"csrf_token": "forged"}):
            answer = client.open(path, method=method, data=form)
            assert (answer.status_code, "This form has expired" in answer.text) == (400, True), endpoint
    assert rows(session) == before


JSON = "application/json"
ANY_FIELD = '{"a": %s}'
# What is sent, the type that it is said to have, and the answer.
BODIES: dict[str, tuple[str | bytes, str, int]] = {
    "no JSON": ('{"a"', JSON, 400),
    "two values": ("{} {}", JSON, 400),
    "bytes that are not UTF-8": (b'{"a": "\xff\xfe"}', JSON, 400),
    "nested 30,000 deep": ("[" * 30_000 + "]" * 30_000, JSON, 400),
    "objects 10,000 deep": ('{"a":' * 10_000, JSON, 400),
    "too many fields": ("{" + ",".join(f'"{number}":1' for number in range(MAX_VALUES + 1)) + "}", JSON, 400),
    "too many in a list": (ANY_FIELD % f"[{'0,' * MAX_VALUES}0]", JSON, 400),
    "many fields": ("{" + ",".join(f'"{number}":1' for number in range(MAX_VALUES)) + "}", JSON, 422),
    "a long name": ('{"%s":1}' % ("n" * 50_000), JSON, 422),
    "a number of 5,000 digits": (ANY_FIELD % ("9" * 5_000), JSON, 400),
    "half a pair of surrogates": (ANY_FIELD % '"\\ud800"', JSON, 400),
    "half a pair in a list": ('["fine \\udfff"]', JSON, 400),
    "half a pair in a name": ('{"a": [{"\\udc00\\ud800": 1}]}', JSON, 400),
    "nested 50 deep": (ANY_FIELD % ("[" * 50 + "]" * 50), JSON, 422),
    "beyond the largest float": (ANY_FIELD % "1e400", JSON, 422),
    "no number": (ANY_FIELD % "NaN", JSON, 422),
    "infinity": (ANY_FIELD % "-Infinity", JSON, 422),
    "a field twice": ('{"a": 1, "a": 2}', JSON, 422),
    "a field that Python has": ('{"__class__": {"__init__": 1}}', JSON, 422),
    "a field that JavaScript has": ('{"__proto__": {"role": "admin"}}', JSON, 422),
    "nothing": ("", JSON, 422),
    "null": ("null", JSON, 422),
    "a text": ('"text"', JSON, 422),
    "a list": ("[]", JSON, 422),
    "a list of objects": ("[{}]", JSON, 422),
    "a form": ("a=1", "application/x-www-form-urlencoded", 415),
    "JSON by another name": ("{}", "text/plain", 415),
    "XML": ('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "application/xml", 415),
}
NOT_TO_BE_SET = (
    *("id", "role", "school_id", "active", "is_confirmed", "confirmed_at", "created_at", "customer", "user_id"),
    *("password_hash", "fs_uniquifier", "tf_primary_method", "updated_at", "user", "is_admin"),
)

# Those that a client may set after all: the user who becomes a guardian, and the school that an admin chooses.
SET_BY_CLIENTS = {
    "api_students.add_guardian": {"user_id"},
    **{endpoint: {"school_id"} for endpoint in OF_MANY_VALUES[:-1]},
}


def test_every_endpoint_refuses_every_body_that_is_wrong(app, client, session):
    headers = bearer(make_user(Role.ADMIN))
    before = rows(session)
    for endpoint, method, path in routes(app, "POST", "PUT", "PATCH", is_api=True):
        for name, (body, type_, status) in BODIES.items():
            is_optional = method == "PATCH" or endpoint in WITH_OPTIONAL_BODY
            if endpoint in OF_MANY_VALUES and name.startswith("too many"):
                status = 422  # the field is unknown
            if endpoint not in WITHOUT_BODY and not (is_optional and name == "nothing"):
                answer = client.open(path, method=method, data=body, content_type=type_, headers=headers)
                assert (answer.status_code, answer.json.keys()) == (status, SHAPE), (endpoint, name, answer.text)
                assert len(answer.data) < 8_000, (endpoint, name)
    assert rows(session) == before


def test_an_error_says_no_more_than_a_person_reads(client):
    body = SCOPED | {"scopes": ["nonsense" * 50] * 100} | {f"{'n' * 100}{number}": 1 for number in range(100)}
    answer = client.post(TOKENS, json=body, headers=bearer(make_user()))
    errors = answer.json["errors"]
    assert len(errors) == MAX_FIELDS
    assert max(len(messages) for messages in errors.values()) <= MAX_MESSAGES
    assert max(len(text) for messages in errors.values() for text in messages) <= MAX_MESSAGE_CHARACTERS


def test_every_endpoint_refuses_fields_that_are_not_for_clients(app, client, session):
    headers = bearer(make_user(Role.ADMIN))
    before = rows(session)
    for endpoint, method, path in routes(app, "POST", "PUT", "PATCH", is_api=True):
        if endpoint not in WITHOUT_BODY:
            answer = client.open(path, method=method, json=dict.fromkeys(NOT_TO_BE_SET, 1), headers=headers)
            assert answer.status_code == 422, (endpoint, answer.text)
            refused = set(NOT_TO_BE_SET) - SET_BY_CLIENTS.get(endpoint, set())
            assert answer.json["errors"].keys() >= refused, endpoint
            assert {answer.json["errors"][name][0] for name in refused} == {"Unknown field."}, endpoint
    assert rows(session) == before


def huge(app: Flask, endpoint: str) -> bytes:
    """JSON that is larger than the endpoint accepts."""
    limit = getattr(app.view_functions[endpoint], "max_body_bytes", MAX_BODY_BYTES)
    return b'{"a": "' + b"x" * limit + b'"}'


def test_an_endpoint_that_accepts_more_is_marked(app):
    marked = {endpoint for endpoint, view in app.view_functions.items() if hasattr(view, "max_body_bytes")}
    items = {f"api_{kind.plural}.{view}" for kind in Kind for view in ("create_item", "change_item")}
    notifications = {*OF_MANY_VALUES, "bounces.receive"}
    assert marked == items | {"work_items.create", "work_items.edit"} | notifications
    assert app.config["MAX_CONTENT_LENGTH"] == max(MAX_CONTENT_BYTES, MAX_MESSAGE_BYTES)


@pytest.mark.parametrize("is_api", [True, False])
def test_the_longest_description_is_accepted_whatever_its_letters(client, session, is_api):
    user = make_user(Role.STAFF)
    item = {"title": "x", "description": "\U0001f514" * MAX_DESCRIPTION_CHARACTERS}
    if is_api:
        answer = client.post("/api/v1/epics", json=item, headers=bearer(user))
    else:
        log_in(client, user)
        answer = client.post("/work-items/new?kind=epic", data=item | {"priority": "LOW"})
    assert answer.status_code == (201 if is_api else 303), answer.text
    assert session.scalars(sa.select(WorkItem.description)).one() == item["description"]


@pytest.mark.parametrize("more", [{}, {"Idempotency-Key": "a-key"}])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_every_endpoint_refuses_a_body_that_is_too_large(app, client, is_chunked, more):
    headers = {**bearer(make_user()), **more, **({"Transfer-Encoding": "chunked"} if is_chunked else {})}
    for endpoint, method, path in routes(app, "POST", "PUT", "PATCH", "DELETE", is_api=True):
        environ = {"wsgi.input_terminated": True} if is_chunked else {}
        body = huge(app, endpoint)
        sends = {"input_stream": io.BytesIO(body)} if is_chunked else {"data": body}
        answer = client.open(
            path, method=method, headers=headers, content_type=JSON, environ_overrides=environ, **sends
        )
        assert (answer.status_code, answer.json.keys()) == (413, SHAPE), endpoint


def test_every_form_refuses_a_body_that_is_too_large(app, client):
    log_in(client, make_user(Role.ADMIN))
    app.config["WTF_CSRF_ENABLED"] = True
    for endpoint, method, path in routes(app, "POST", is_api=False):
        for type_ in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "text/plain"):
            answer = client.open(path, method=method, data=huge(app, endpoint), content_type=type_)
            assert answer.status_code == 413, endpoint


SCOPED = {"name": "Cron", "scopes": ["read"]}
