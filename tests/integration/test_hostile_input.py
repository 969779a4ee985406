"""Input that is meant to hurt, as tables: what is sent, and what it is answered.

What applies to every form, or to every endpoint that takes a body, is asked of all that the application has: a route
that is added later is asked too.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urljoin, urlsplit
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from flask import Flask, url_for
from werkzeug.routing import AnyConverter, Rule, UUIDConverter

from app.accounts import AccessToken, Role, User, codes, issue_pair, issue_personal_token, registration, services
from app.accounts.models import AccountCode, CodePurpose
from app.accounts.tokens import refresh_pair, revoke
from app.api.errors import MAX_FIELDS, MAX_MESSAGE_CHARACTERS, MAX_MESSAGES
from app.api.parsing import MAX_VALUES
from app.reservations import Reservation
from app.schools import default_school
from app.web.bodies import MAX_BODY_BYTES
from app.work_items import Kind, WorkItem
from app.work_items.models import MAX_DESCRIPTION_CHARACTERS, MAX_ITEM_BYTES
from flask_belfry.core.clock import utc_now
from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db import db
from flask_belfry.mail import EmailMessage, send_notice
from flask_belfry.mail.previews import render_mail
from flask_belfry.outbox import JobRecord
from tests.reservation_factories import (
    PASSWORD,
    bearer,
    log_in,
    make_reservation,
    make_resource,
    make_school,
    make_user,
    tomorrow,
)

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

ME, LOGIN, REGISTER = "/api/v1/me", "/api/v1/auth/login", "/api/v1/auth/register"
RESERVATIONS, TOKENS = "/api/v1/reservations", "/api/v1/me/tokens"
SHAPE = {"code", "status", "message", "errors"}
SMUGGLED = "\r\nBcc: eve@example.org"
SCRIPT = "<script>alert(1)</script>"
# They take no body, so nothing in it can be wrong but its size.
WITHOUT_BODY = ("api_accounts.logout", *(f"api_{kind.plural}.watch" for kind in Kind))


@pytest.fixture
def settings(settings):
    """So often is nothing asked of one address that is not hostile; test_limits asks more often."""
    return settings | {"RATE_LIMITS_ENABLED": "false"}


def routes(app: Flask, *methods: str, is_api: bool) -> list[tuple[str, str, str]]:
    """The endpoint, method and path of every route that takes one of these methods, with the first of all ids."""
    with app.test_request_context():
        return [
            (rule.endpoint, method, url_for(rule.endpoint, **{name: some_id(rule, name) for name in rule.arguments}))
            for rule in app.url_map.iter_rules()
            for method in sorted(rule.methods or ())
            if method in methods and rule.rule.startswith("/api/") is is_api
        ]


def some_id(rule: Rule, name: str) -> object:
    converter = rule._converters[name]
    if isinstance(converter, AnyConverter):
        return min(converter.items)
    return UUID(int=1) if isinstance(converter, UUIDConverter) else 1


def rows(session) -> list[Any]:
    """All that a request could have changed."""
    session.rollback()
    models = (User, Reservation, JobRecord, EmailMessage, AccountCode)
    return [session.execute(sa.select(model.__table__).order_by(sa.text("id"))).all() for model in models]


# ── Every form, every endpoint ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("role", [None, Role.ADMIN])
def test_every_form_wants_a_csrf_token(app, client, session, role):
    if role:
        log_in(client, make_user(role))
    app.config["WTF_CSRF_ENABLED"] = True
    before, asked = rows(session), routes(app, "POST", "PUT", "PATCH", "DELETE", is_api=False)
    assert len(asked) > 20
    for endpoint, method, path in asked:
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
    "bytes that are no text": (b'{"a": "\xff\xfe"}', JSON, 400),
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


def test_every_endpoint_refuses_every_body_that_is_wrong(app, client, session):
    headers = bearer(make_user(Role.ADMIN))
    before = rows(session)
    for endpoint, method, path in routes(app, "POST", "PUT", "PATCH", is_api=True):
        for name, (body, type_, status) in BODIES.items():
            if endpoint not in WITHOUT_BODY and (method, name) != ("PATCH", "nothing"):
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
    headers = bearer(make_user())
    before = rows(session)
    for endpoint, method, path in routes(app, "POST", "PUT", "PATCH", is_api=True):
        if endpoint not in WITHOUT_BODY:
            answer = client.open(path, method=method, json=dict.fromkeys(NOT_TO_BE_SET, 1), headers=headers)
            assert answer.status_code == 422, (endpoint, answer.text)
            assert answer.json["errors"].keys() >= set(NOT_TO_BE_SET), endpoint
            assert {answer.json["errors"][name][0] for name in NOT_TO_BE_SET} == {"Unknown field."}, endpoint
    assert rows(session) == before


def huge(app: Flask, endpoint: str) -> bytes:
    """JSON that is larger than the endpoint accepts."""
    limit = getattr(app.view_functions[endpoint], "max_body_bytes", MAX_BODY_BYTES)
    return b'{"a": "' + b"x" * limit + b'"}'


def test_an_endpoint_that_accepts_more_is_marked(app):
    marked = {endpoint for endpoint, view in app.view_functions.items() if hasattr(view, "max_body_bytes")}
    items = {f"api_{kind.plural}.{view}" for kind in Kind for view in ("create_item", "change_item")}
    assert marked == items | {"work_items.create", "work_items.edit"}
    assert app.config["MAX_CONTENT_LENGTH"] == MAX_ITEM_BYTES


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


# ── Fields ───────────────────────────────────────────────────────────────────────────────────────────────────────


ADA = {"username": "ada", "email": "ada@example.org", "password": PASSWORD}
BOOKING = {"start_time": "2099-01-01T10:00:00Z"}
SCOPED = {"name": "Cron", "scopes": ["read"]}
# The letters of some come from other alphabets, or turn the direction of those that follow.
WRONG_USERNAMES = (
    *("", "ad", "a" * 41, "a" * 50_000, "ada lovelace", "ada@example.org", "-ada", "ada.", "ada\x00", "../ada"),
    *(f"ada{SMUGGLED}", "ada\n", SCRIPT, "\u0430da", "ada\u202e", "\uff41\uff44\uff41", "ada'; DROP TABLE users; --"),
    *(None, 5, True, ["ada"], {"a": 1}),
)
WRONG_ADDRESSES = (
    *("", "ada", "ada@", "@example.org", "a b@example.org", "a" * 250 + "@ex.org", "ada@localhost", "ada@[127.0.0.1]"),
    *(f"ada@example.org{SMUGGLED}", "ada\n@example.org", "ada@example.org\x00", "ada@example.org\nx"),
    *("ada@example.org, eve@example.org", "Ada <ada@example.org>", "ad\u0430@example.org", "ada@exam\u202eple.org"),
    *(None, 5, ["ada@example.org"]),
)
WRONG_PASSWORDS = ("", "short", "x" * 201, "x" * 1_001, 5, None)
# Where, what is right there, what is sent in its place, and the fields that the answer names.
FIELDS: list[tuple[str, dict[str, Any], dict[str, Any], set[str]]] = [
    (LOGIN, {}, {}, {"password"}),
    (LOGIN, {"password": "x"}, {}, {"username"}),
    (LOGIN, {"password": "x"}, {"username": "a", "email": "b"}, {"username"}),
    (LOGIN, {}, {"password": 5, "username": ["a"]}, {"password", "username"}),
    (LOGIN, {"username": "a"}, {"password": {"$ne": ""}}, {"password"}),
    (LOGIN, {"username": "a"}, {"password": "x" * 1_001}, {"password"}),
    (LOGIN, {"password": "x"}, {"username": "x" * 255}, {"username"}),
    *[(REGISTER, ADA, {"username": username}, {"username"}) for username in WRONG_USERNAMES],
    *[(REGISTER, ADA, {"email": email}, {"email"}) for email in WRONG_ADDRESSES],
    *[(REGISTER, ADA, {"password": password}, {"password"}) for password in WRONG_PASSWORDS],
    (REGISTER, ADA, {"username": "x", "email": "nowhere", "password": "short"}, {"username", "email", "password"}),
    (TOKENS, SCOPED, {"name": ""}, {"name"}),
    (TOKENS, SCOPED, {"name": "x" * 81}, {"name"}),
    (TOKENS, SCOPED, {"name": "a\x00"}, {"name"}),
    (TOKENS, SCOPED, {"name": "a\x1b[2J"}, {"name"}),
    (TOKENS, SCOPED, {"scopes": []}, {"scopes"}),
    (TOKENS, SCOPED, {"scopes": ["everything"]}, {"scopes.0"}),
    (TOKENS, SCOPED, {"scopes": ["read"] * 1_000}, {"scopes"}),
    (TOKENS, SCOPED, {"scopes": "read"}, {"scopes"}),
    (TOKENS, SCOPED, {"scopes": [["read"]]}, {"scopes.0"}),
    (TOKENS, SCOPED, {"expires_at": "2020-01-01T00:00:00Z"}, {"expires_at"}),
    (TOKENS, SCOPED, {"expires_at": "2030-01-01T00:00:00"}, {"expires_at"}),
    (RESERVATIONS, {}, {}, {"start_time"}),
    *[
        (RESERVATIONS, BOOKING, {"start_time": moment}, {"start_time"})
        for moment in (
            *("2030-01-01T10:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "2020-01-01T10:00:00Z"),
            *("", "soon", None, 5, 1e300, [], {}),
        )
    ],
    *[
        (RESERVATIONS, BOOKING, {"party_size": size}, {"party_size"})
        for size in (10**30, -1, 0, 1.5, "2", True, None, [1], float("nan"), float("inf"))
    ],
    (RESERVATIONS, BOOKING, {"resource_id": 10**30}, {"resource_id"}),
    (RESERVATIONS, BOOKING, {"resource_id": 5}, {"resource_id"}),
    (RESERVATIONS, BOOKING, {"resource_id": "1 OR 1=1"}, {"resource_id"}),
    (RESERVATIONS, BOOKING, {"duration_minutes": 1441}, {"duration_minutes"}),
    (RESERVATIONS, BOOKING, {"note": "a\x00b"}, {"note"}),
    (RESERVATIONS, BOOKING, {"note": "x" * 501}, {"note"}),
    (RESERVATIONS, BOOKING, {"note": 5}, {"note"}),
    (RESERVATIONS, BOOKING, {"status": "confirmed"}, {"status"}),
]  # fmt: skip


def test_every_wrong_field_is_named_and_nothing_is_written(client, session):
    headers = bearer(make_user())
    before = rows(session)
    for path, right, wrong, named in FIELDS:
        answer = client.post(path, json=right | wrong, headers=headers)
        assert (answer.status_code, answer.json.keys()) == (422, SHAPE), (path, wrong, answer.text)
        assert answer.json["errors"].keys() == named, (path, wrong)
    assert rows(session) == before


def test_the_form_of_a_registration_refuses_what_the_endpoint_refuses(client, session):
    before = rows(session)
    for path, right, wrong, _ in FIELDS:
        if path == REGISTER and all(isinstance(value, str) and value[-1:] != "\n" for value in wrong.values()):
            answer = client.post("/register", data=right | wrong)
            assert answer.status_code == 422, wrong
            assert "field-errors" in answer.text, wrong
    assert rows(session) == before


@pytest.mark.parametrize(
    "password", ["🔋 correct horse", "пароль из слов", " spaces ", ("a long phrase " * 15)[:200], "a\x00b\x01cdefg"]
)
def test_a_password_may_be_of_any_characters(client, password):
    assert client.post(REGISTER, json=ADA | {"password": password}).status_code == 201
    answer = client.post(LOGIN, json={"username": "ada", "password": password})
    assert answer.status_code == 200
    assert client.post(LOGIN, json={"username": "ada", "password": password[:-1]}).status_code == 401


def test_of_a_field_that_comes_twice_the_last_one_is_looked_at_and_used(client):
    body = '{"username": "%s", "username": "%s", "email": "ada@example.org", "password": "correct horse"}'
    assert client.post(REGISTER, data=body % ("ada", "a b"), content_type=JSON).status_code == 422
    answer = client.post(REGISTER, data=body % ("a b", "ada"), content_type=JSON)
    assert answer.json["user_data"]["username"] == "ada"


def test_a_whole_pair_of_surrogates_is_a_character(client):
    body = '{"username": "\\ud83d\\ude00", "password": "x"}'
    assert client.post(LOGIN, data=body, content_type=JSON).status_code == 401


# What a form gets besides its fields, and the row that must not follow it.
EXTRA = {"role": "admin", "school_id": "2", "confirmed_at": "2020-01-01", "is_confirmed": "y", "active": "", "id": "77"}


def test_a_form_takes_no_more_than_its_fields(client, session):
    other = make_school()
    assert client.post("/register", data=ADA | EXTRA).location == "/confirm"
    ada = session.scalars(sa.select(User).where(User.username == "ada")).one()
    assert (ada.role, ada.school_id, ada.is_confirmed, ada.active) == (Role.MEMBER, default_school().id, False, True)
    assert ada.id != 77

    member = make_user()
    client.post("/logout")
    log_in(client, member)
    form = {"start_time": "2099-01-01T10:00", "duration_minutes": "60", "party_size": "1"}
    hostile = {"customer": ada.email, "customer_id": str(ada.id), "status": "confirmed", "school_id": str(other.id)}
    assert client.post("/reservations/new", data=form | EXTRA | hostile).status_code == 303
    row = session.scalars(sa.select(Reservation)).one()
    kept = (row.customer_id, row.school_id, row.status)
    assert kept == (member.id, member.school_id, "pending")
    assert client.post(f"/reservations/{row.id}/edit", data=form | EXTRA | hostile | {"note": "x"}).status_code == 303
    session.refresh(row)
    assert (row.note, row.customer_id, row.school_id, row.status) == ("x", *kept)


# ── Text that is to become markup or a header ────────────────────────────────────────────────────────────────────


# Who looks where; {…} is an id.
PAGES = (
    *(
        "/",
        "/reservations/",
        "/reservations/{row}",
        "/reservations/{ended}",
        "/reservations/{ended}/history",
        "/reservations/{row}/edit",
    ),
    *("/reservations/new", "/reservations/day/{day}", "/mails", "/mails/{mail}", "/audit", "/account/tokens", "/jobs/"),
    *("/reservations/?text={script}", "/mails?text={script}", "/audit?user={script}", "/jobs/?text={script}"),
    *("/mails/{mail}/html", "/login?next={script}", "/no-such-page/{script}"),
)


def test_markup_in_names_and_texts_is_shown_as_it_was_typed(client, session):
    staff = make_user(Role.STAFF, name=f"Staff {SCRIPT}")
    customer = make_user(name=f"Ada {SCRIPT}", username="ada", email='"ada&<b>"@example.org')
    room = make_resource(name=f"Room {SCRIPT}")
    row = make_reservation(customer, resource=room, note=f"Note {SCRIPT} </textarea>{SCRIPT}")
    row.status = "confirmed"
    issue_personal_token(staff, f"Token {SCRIPT}", ["read"])
    session.commit()
    log_in(client, staff)
    ended = make_reservation(customer, note=SCRIPT)
    client.post(f"/reservations/{ended.id}/status", data={"status": "cancelled"})
    about_row = EmailMessage.kind == "reservation-new", EmailMessage.subject_id == str(row.id)
    mail = session.scalars(sa.select(EmailMessage).where(*about_row)).one()
    named = {"row": row.id, "ended": ended.id, "mail": mail.id, "day": tomorrow().date(), "script": SCRIPT}
    shown = [client.get(path.format(**named)) for path in PAGES]
    assert {answer.status_code for answer in shown} == {200, 302, 404}
    assert [path for path, answer in zip(PAGES, shown, strict=True) if SCRIPT in answer.text] == []
    everything = "".join(answer.text for answer in shown)
    for what in ("Ada", "Staff", "Room", "Note", "Token"):
        assert html.escape(f"{what} {SCRIPT}") in everything, what
    assert '"ada&<b>"@' not in everything


def test_markup_in_names_and_texts_stays_text_in_mails(app, session):
    customer = make_user(name=f"Ada {SCRIPT}")
    row = make_reservation(customer, resource=make_resource(name=f"Room {SCRIPT}"), note=f"Note {SCRIPT}")
    row.status = "confirmed"
    registration.confirm(make_user(confirmed_at=None, name=f"Bob {SCRIPT}"))
    services.change_password(customer, "another password")
    send_notice("ada@example.org", "notice/1", title=f"Title {SCRIPT}", text=f"Text {SCRIPT}")
    session.commit()
    mails = session.scalars(sa.select(EmailMessage)).all()
    assert {mail.kind for mail in mails} == {
        "reservation-new", "reservation-status", "welcome", "password-changed", "notice",
    }  # fmt: skip
    for mail in mails:
        rendered = render_mail(mail)
        assert SCRIPT in rendered.text or SCRIPT in rendered.subject, mail.kind
        assert SCRIPT not in rendered.html, mail.kind
        assert html.escape(SCRIPT) in rendered.html, mail.kind


def test_a_line_break_makes_no_header(app, session):
    with pytest.raises(InvalidInputError):
        services.create_user(**ADA, name=f"Ada\x00{SMUGGLED}")
    user = services.create_user(**ADA, name=f"Ada{SMUGGLED}")
    assert user.name == "Ada Bcc: eve@example.org"
    mail_id = send_notice(f"ada@example.org{SMUGGLED}", "notice/1", title="To nobody", text="x")
    session.commit()
    assert session.get_one(EmailMessage, mail_id).state == "skipped"
    # Rows that somebody wrote past all validation.
    row = make_reservation(make_user(name=f"Eve{SMUGGLED}"), resource=make_resource(name=f"Room{SMUGGLED}"))
    row.status = "confirmed"
    send_notice("ada@example.org", "notice/2", title=f"Closed{SMUGGLED}", text="x")
    session.commit()
    for mail in session.scalars(sa.select(EmailMessage).where(EmailMessage.state == "queued")):
        subject = render_mail(mail).subject
        assert not re.search(r"[\r\n]", subject), mail.kind


# ── Tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _shut_out(user: User) -> str:
    user.active = False  # and nothing more: `disable` revokes the token too
    return issue_pair(user).access_token


def _revoked(user: User) -> str:
    text, token = issue_personal_token(user, "script", ["read"])
    revoke(token)
    return text


def _expired(user: User) -> str:
    with time_machine.travel(utc_now() - timedelta(days=1), tick=False):
        return issue_pair(user).access_token


def _renewed(user: User) -> str:
    pair = issue_pair(user)
    refresh_pair(pair.refresh_token)
    return pair.access_token


def _replayed(user: User) -> str:
    pair = issue_pair(user)
    newer = refresh_pair(pair.refresh_token)
    assert newer is not None
    refresh_pair(pair.refresh_token)  # by a second one: the family ends
    return newer.access_token


def _kept(user: User) -> str:
    issue_pair(user)
    return db.session.scalars(sa.select(AccessToken.hash)).one()


# Texts that open nothing, by how they came to be.
DEAD_TOKENS: dict[str, Callable[[User], str]] = {
    "expired": _expired,
    "of one who was shut out": _shut_out,
    "revoked": _revoked,
    "replaced by a newer one": _renewed,
    "of a family whose refresh token was used twice": _replayed,
    "a refresh token": lambda user: issue_pair(user).refresh_token,
    "cut": lambda user: issue_pair(user).access_token[:-1],
    "in another case": lambda user: issue_pair(user).access_token.swapcase(),
    "of Flask-Security": lambda user: user.get_auth_token(),
    "a user's id": lambda user: str(user.id),
    "a session's": lambda user: user.get_id(),
    "as it is kept": _kept,
}


@pytest.mark.parametrize("name", DEAD_TOKENS)
def test_a_token_that_works_no_more_or_never_did_opens_nothing(client, session, name):
    token = DEAD_TOKENS[name](make_user())
    session.commit()
    for path in (ME, RESERVATIONS):
        answer = client.get(path, headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json.keys()) == (401, SHAPE)
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    "header", [None, "Bearer nonsense", "Basic YTpi", "Bearer", "nonsense", "Bearer \xff", "Bearer a b"]
)
def test_a_header_that_is_none_opens_nothing(client, header):
    answer = client.get(ME, headers={"Authorization": header} if header else {})
    assert (answer.status_code, answer.json.keys()) == (401, SHAPE)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def _code(user: User, purpose: CodePurpose) -> AccountCode:
    code = codes.issue(user, purpose)
    codes.start(db.session(), purpose, [code.id])
    db.session.commit()
    return code


# What somebody who has a code's row, or another token, might try in the place of a link's token.
LINKS: dict[str, Callable[[AccountCode], str]] = {
    "of another purpose": lambda code: codes.token_of(_code(make_user(confirmed_at=None), CodePurpose.CONFIRM)),
    "of a personal token": lambda code: issue_personal_token(code.user, "script", ["read"])[0],
    "a nonce": lambda code: str(code.nonce),
    "its hash": lambda code: code.token_hash,
    "cut": lambda code: codes.token_of(code)[:-1],
    "with more": lambda code: codes.token_of(code) + "=",
    "a NUL": lambda code: "\x00",
}


@pytest.mark.parametrize("name", LINKS)
def test_a_link_that_was_made_up_changes_no_password(client, session, name):
    user = make_user()
    code = _code(user, CodePurpose.RESET)
    body = {"token": LINKS[name](code), "password": "another password"}
    assert client.post("/api/v1/auth/password-reset/confirm", json=body).status_code == 422
    assert services.authenticate(user.username, PASSWORD) is user
    body["token"] = codes.token_of(code)
    for status in (200, 422):  # and the right one works once
        assert client.post("/api/v1/auth/password-reset/confirm", json=body).status_code == status


# ── Who is registered ────────────────────────────────────────────────────────────────────────────────────────────


AUTH = "/api/v1/auth"
# An endpoint and a page, what both are sent, and how many hashes of passwords that takes; {} is who is asked about.
ASKED = {
    "registering": (REGISTER, "/register", {"username": "new{}", "email": "{}@example.org", "password": PASSWORD}, 1),
    "another code": (f"{AUTH}/resend-confirmation", "/resend-confirmation", {"email": "{}@example.org"}, 0),
    "a forgotten password": (f"{AUTH}/password-reset", "/forgot-password", {"email": "{}@example.org"}, 0),
    "a login by address": (LOGIN, "/login", {"email": "{}@example.org", "password": "a wrong one"}, 2),
    "a login by name": (LOGIN, "/login", {"username": "{}", "password": "a wrong one"}, 1),
}


@pytest.fixture
def hashes(monkeypatch) -> list[str]:
    """One entry for each password that is hashed or checked from here on."""
    seen: list[str] = []
    for name in ("hash_password", "is_password"):
        real = getattr(services, name)
        monkeypatch.setattr(services, name, lambda *args, real=real: (seen.append("hash"), real(*args))[1])
    return seen


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("is_api", [True, False])
def test_what_is_known_and_what_is_unknown_cost_the_same_and_are_answered_alike(
    app, client, statements, hashes, name, is_api
):
    endpoint, page, asked, expected_hashes = ASKED[name]
    for who, values in {"known": {}, "claimed": {"confirmed_at": None}, "disabled": {"active": False}}.items():
        make_user(username=who, email=f"{who}@example.org", **values)

    def cost(who: str) -> tuple[list[str], int, int, str]:
        fields = {name: value.format(who) for name, value in asked.items()}
        form = {
            "login" if page == "/login" and name in ("email", "username") else name: fields[name] for name in fields
        }
        statements.clear(), hashes.clear()
        sends = {"json": fields} if is_api else {"data": form}
        answer = app.test_client().post(endpoint if is_api else page, **sends)
        # Without what differs each time: who it is, tokens, ids and times.
        said = re.sub(rf"{who}|[\w.-]{{30,}}|\d+", "", answer.text)
        return list(statements), len(hashes), answer.status_code, said

    known, *others = [cost(who) for who in ("known", "claimed", "disabled", "unknown")]
    assert known[0]
    assert known[1] == expected_hashes
    for other in others:
        assert other == known


# ── Elsewhere ────────────────────────────────────────────────────────────────────────────────────────────────────


ELSEWHERE = (
    *("", "//evil.example", "///evil.example", "////evil.example", "//"),
    *(
        "/\\evil.example",
        "\\\\evil.example",
        "\\/evil.example",
        "//evil.example\\@localhost",
        "//localhost@evil.example",
    ),
    *("https://evil.example/", "http:evil.example", "https:/evil.example"),
    *(
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "java\nscript:alert(1)",
        "\x01javascript:alert(1)",
        "data:text/html,x",
    ),
    *("/\t/evil.example", "/\n/evil.example", "/\r/evil.example"),
    *(" //evil.example", "\x00//evil.example", "\u2028//evil.example", "\uff0f\uff0fevil.example"),
    *("/%2f/evil.example", "%2f%2fevil.example", "/%5cevil.example", "%68ttps://evil.example", "//%65vil.example"),
    *("/\r\nSet-Cookie: session=x", "/%0d%0aSet-Cookie: session=x", "/start\r\nLocation: https://evil.example"),
)
# Python's look at them fails.
NOWHERE = ("//[::1", "https://[evil.example", "\\\\[::1")


@pytest.mark.parametrize("place", ["query", "form", "both"])
def test_a_login_leads_nowhere_else(app, place):
    user = make_user()
    for target in ELSEWHERE:
        client = app.test_client()
        app.config["WTF_CSRF_ENABLED"] = False
        data = {"login": user.username, "password": PASSWORD} | ({"next": target} if place != "query" else {})
        answer = client.post("/login", query_string={"next": target} if place != "form" else {}, data=data)
        assert answer.status_code == 302, target
        assert [name for name, value in answer.headers if "session=x" in value or "\n" in value] == []
        # As a browser reads it: without tabs and line breaks, and with / for \ (WHATWG URL, section 4.4).
        followed = re.sub(r"[\t\r\n]", "", answer.location).strip("\x00\x01 ").replace("\\", "/")
        went = urlsplit(urljoin("http://localhost/login", followed))
        assert (went.scheme, went.netloc) == ("http", "localhost"), (target, answer.location)
        assert client.get("/start").location == "/reservations/"


@pytest.mark.parametrize("target", NOWHERE)
def test_what_is_no_address_is_refused(client, target):
    data = {"login": make_user().username, "password": PASSWORD}
    assert client.get("/login", query_string={"next": target}).status_code == 400
    assert client.post("/login", query_string={"next": target}, data=data).status_code == 400
    assert client.post("/login", data=data | {"next": target}).status_code == 400
