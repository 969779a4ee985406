"""Values that no field means, in every place where a page or an endpoint reads one: the answer is never a failure.

Views read queries and forms from a mapping that has every name: a parameter that is added later is tried too. Values
are a table, in a fixed order; tests run with exceptions propagated, so a failure shows its traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from flask import Flask, url_for
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.test import EnvironBuilder, run_wsgi_app

from app.accounts import Role, User
from app.web.malformed import WellFormedRequest
from flask_belfry.db import db
from flask_belfry.mail import EmailMessage
from flask_belfry.outbox import JobRecord, enqueue
from tests.reservation_factories import PASSWORD, bearer, log_in, make_reservation, make_resource, make_user
from tests.url_rules import some_id
from tests.work_item_factories import make_task

sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

FORM, JSON, PARTS = "application/x-www-form-urlencoded", "application/json", "multipart/form-data; boundary=b"
# Those that a database may refuse; they are tried on both.
FOR_DATABASES = {
    "a NUL": "a\x00b",
    "half a pair": "\ufffd\U0001f514\u202e",
    "400 digits": "9" * 400,
    "beyond 32 bits": "2147483648",
    "beyond 64 bits": "9223372036854775808",
    "the first moment": "0001-01-01T00:00",
    "the last day": "9999-12-31",
    "a cursor of a large number": "Wzk5OTk5OTk5OTk5OTk5OTk5OTk5XQ",
    "a cursor of half a pair": "WyJcdWQ4MDAiXQ",
    "a wildcard": "%_\\",
}
VALUES = FOR_DATABASES | {
    "nothing": "",
    "5,000 digits": "9" * 5_000,
    "minus": "-1",
    "Arabic digits": "\u0661\u0662",
    "superscript": "\u00b2",
    "not a number": "NaN",
    "the last moment, elsewhere": "9999-12-31T23:59:59-12:00",
    "the last moment": "9999-12-31T23:59",
    "a zone's folder": "Europe",
    "an id": "00000000-0000-0000-0000-000000000000",
    "a cursor of an object": "e30",
    "a cursor of NaN": "W05hTl0",
    "brackets": "//[::1",
    "a format": "%s %(a)s {0} {a.__class__}\r\n'\"`;--",
    "much": "x" * 20_000,
    "an address of a code": "a@xn--a.example",
}
# As the panel's pages are made by one class, these stand for all: a key of each type, a form of each kind of fields.
PANEL = ("job_records", "schedules", "users", "reservations", "work_items", "schools")
MALFORMED = {
    "Host": ("a" * 64 + ".example", "..", ".", "a..b", "[::1", "exa mple", "xn--a", "a:b", "@", "a/b", "x" * 300, "-"),
    "Content-Type": (
        *(
            f"{type_}; charset={name}"
            for type_ in (FORM, JSON)
            for name in ("nonsense", "utf-7", "utf-16", "idna", '"')
        ),
        *("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=\u00e9", "/", ";"),
    ),
    "Content-Length": ("-1", "x", "9" * 400, "9" * 5_000, "\u00b2", "+1", "1_0"),
    "Authorization": (
        "Bearer",
        "Bearer \u00e9",
        "Basic \u00e9",
        "Basic YQ==",
        'Digest a="',
        ":",
        "Bearer " + "x" * 9_000,
    ),
    "Cookie": (
        "session=.",
        "session=\u00e9",
        "session=" + "a" * 5_000,
        "remember_token=1|a",
        'session="\\999"',
        "=",
        ";;",
    ),
    "If-Match": ('"', "W/", "\u00e9"),
    "If-None-Match": ('"', "W/", "\u00e9"),
    "If-Modified-Since": ("x", "Thu, 01 Jan 0001 00:00:00 +1400", "Fri, 31 Dec 9999 23:59:59 -1200", "9" * 400),
    "Range": ("bytes=-" + "9" * 5_000, "bytes=\u00b2-", "x"),
    "Accept": ("*;q=x", "text/html;q=1e400"),
    "Accept-Language": ("de;q=nan", "\u00e9"),
    "Origin": ("//[::1", "null"),
    "Referer": ("//[::1", "http://a:b/"),
    "HX-Current-URL": ("//[::1", "https://[evil", "\u2100"),
    "X-Request-Id": ("\u00e9" * 20, "\x01"),
    "X-Forwarded-For": ("\u00e9", "a" * 500),
    "User-Agent": ("\u00e9" * 500, ""),
    "Idempotency-Key": ("\u00e9", ""),
}
PART = b'--b\r\nContent-Disposition: form-data; name="login"'
BODIES = {
    "a part without a name": (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--", PARTS),
    "a part that is cut": (PART, PARTS),
    "a part of an unknown charset": (
        PART + b"\r\nContent-Type: text/plain; charset=nonsense\r\n\r\n\xff\r\n--b--",
        PARTS,
    ),
    "a file for a text": (PART + b"; filename*=utf-9''%00\r\n\r\nx\r\n--b--", PARTS),
    "many parts": ((PART + b"\r\n\r\nx\r\n") * 1_005 + b"--b--", PARTS),
    "bytes": (b"login=\xff\xfe&password=%ff%00&email=%u0000&%=%", FORM),
    "many fields": (b"a=1&" * 16_000, FORM),
    "JSON of other types": (b'{"login": 1, "email": [1], "password": {}, "title": 5, "name": null}', JSON),
    "JSON of half a pair": (b'{"login": "\\ud800", "password": "\\ud800", "next": "\\ud800"}', JSON),
    "deep JSON": (b"[" * 60_000, JSON),
}


class EveryName(ImmutableMultiDict[str, str]):
    """What was sent, as if every name had been."""

    value = ""
    is_read = False

    def __getitem__(self, key: str) -> str:
        return self.value

    def __contains__(self, key: object) -> bool:
        return key != "csrf_token"

    def get(self, key: str, default: Any = None, type: Any = None) -> Any:  # noqa: A002 - werkzeug's name
        """As werkzeug's own."""
        try:
            return type(self.value) if type else self.value
        except (ValueError, TypeError):
            return default

    def getlist(self, key: str, type: Any = None) -> list[Any]:  # noqa: A002 - werkzeug's name
        """As werkzeug's own."""
        return [self.value, self.value]


def every_name(value: str) -> type[EveryName]:
    return type("EveryNameOfOne", (EveryName,), {"value": value})


class HostileRequest(WellFormedRequest):
    """A request whose query and form have a value for every name."""

    query: type[EveryName] | None = None
    fields: type[EveryName] | None = None

    @property
    def args(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The query."""
        if self.query is None:
            return super().args
        self.query.is_read = True
        return self.query([("a", "a")])

    @property
    def form(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The form."""
        return self.fields([("a", "a")]) if self.fields else super().form


@pytest.fixture
def settings(settings):
    return settings | {"RATE_LIMITS_ENABLED": "false"}


@pytest.fixture
def hostile(app: Flask) -> Iterator[type[HostileRequest]]:
    before = app.request_class
    app.request_class = HostileRequest
    yield HostileRequest
    HostileRequest.query = HostileRequest.fields = None
    app.request_class = before


def fill() -> User:
    """Rows for the ids that paths have; returns an admin."""
    admin = make_user(Role.ADMIN)
    make_reservation(admin, resource=make_resource())
    make_task(title="x", reporter=admin)
    enqueue("accounts.send_password_reset", user_id=0)
    db.session.commit()
    return admin


def paths(app: Flask, method: str) -> list[str]:
    """The path of every page that takes the method, those last that take the user or the row away."""
    is_last = ("delete", "cancel", "block", "erase", "login", "register", "account")
    ids = {"job_id": db.session.scalars(sa.select(JobRecord.id)).first()}
    ids["mail_id"] = db.session.scalars(sa.select(EmailMessage.id)).first()
    with app.test_request_context():
        found = {
            url_for(rule.endpoint, **{name: ids.get(name) or some_id(rule, name) for name in rule.arguments})
            for rule in app.url_map.iter_rules()
            if method in (rule.methods or ())
            and not rule.rule.startswith("/api/")
            and rule.endpoint not in ("static", "security.logout")
            and (not rule.rule.startswith("/admin/") or rule.rule.split("/")[2] in PANEL)
        }
    return sorted(found, key=lambda path: (any(word in path for word in is_last), path))


def values_for(app: Flask) -> dict[str, str]:
    """All values on one database, on the other what may make a difference there."""
    return VALUES if app.config["DATABASE_URL"].startswith("sqlite") else FOR_DATABASES


def test_every_page_answers_whatever_its_query_says(app, client, hostile):
    log_in(client, fill())
    for path in paths(app, "GET"):
        for name, value in values_for(app).items():
            hostile.query = every_name(value)
            assert client.get(path).status_code < 500, (path, name)
            if not hostile.query.is_read:
                break  # the page has no parameters


def test_every_form_answers_whatever_it_is_sent(app, client, hostile):
    log_in(client, fill())
    for path in paths(app, "POST"):
        for name, value in values_for(app).items():
            hostile.fields = every_name(value)
            assert client.post(f"{path}?id=1", data={"a": "a"}).status_code < 500, (path, name)


@sqlite
def test_every_path_answers_any_value_in_it(app, client):
    admin = fill()
    token = bearer(admin)
    log_in(client, admin)
    tried = (
        "a NUL",
        "5,000 digits",
        "beyond 64 bits",
        "Arabic digits",
        "half a pair",
        "the last day",
        "a format",
        "minus",
    )
    for rule in app.url_map.iter_rules():
        for name in tried if rule.arguments else ():
            path = re.sub(r"<[^>]+>", lambda _, name=name: quote(VALUES[name], safe=""), rule.rule)
            for method in sorted((rule.methods or set()) & {"GET", "POST", "PATCH"}):
                answer = client.open(path, method=method, headers=token)
                assert 300 < answer.status_code < 500, (path, name, method, answer.status_code)


@sqlite
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_malformed_headers_are_answered(app, client, method):
    app.config["WTF_CSRF_ENABLED"] = True
    places = {"GET": ("/login", "/no-such-page", "/api/v1/me"), "POST": ("/login", "/api/v1/auth/login")}[method]
    for path in places:
        for name, values in MALFORMED.items():
            for value in values:
                key = name.upper().replace("-", "_")
                key = key if key.startswith("CONTENT") else f"HTTP_{key}"
                builder = EnvironBuilder(path, method=method, data=b"a=1" if method == "POST" else None)
                environ = builder.get_environ() | {key: value.encode().decode("latin-1")}
                content, status, _ = run_wsgi_app(app.wsgi_app, environ, buffered=True)
                assert int(status[:3]) < 500, (path, name, value)
                assert content
                if name == "Host":
                    assert int(status[:3]) == 400, (path, value)


@sqlite
@pytest.mark.parametrize("has_csrf", [True, False])
def test_malformed_bodies_are_refused(app, client, has_csrf):
    app.config["WTF_CSRF_ENABLED"] = has_csrf
    log_in(client, fill()) if not has_csrf else None
    for path in ("/login", "/register", "/forgot-password", "/account", "/account/verify", "/work-items/new"):
        for name, (body, type_) in BODIES.items():
            answer = client.post(path, data=body, content_type=type_)
            assert 300 < answer.status_code < 500, (path, name, answer.status_code)


# A body that is right, for the fields beside the one that is tried.
RIGHT = {
    "/api/v1/auth/register": {"username": "ada", "email": "ada@example.org", "password": PASSWORD},
    "/api/v1/auth/login": {"username": "ada", "password": PASSWORD},
    "/api/v1/auth/confirm": {"email": "ada@example.org", "code": "123456"},
    "/api/v1/reservations": {"start_time": "2099-01-01T10:00:00Z"},
    "/api/v1/me/tokens": {"name": "Cron", "scopes": ["read"]},
    "/api/v1/epics": {"title": "x"},
}
OTHER_TYPES = (None, True, 0, -1, 10**400, 1e300, 0.5, [], [[]], {}, {"a": {}}, [None] * 100)


def test_every_field_of_the_api_answers_whatever_it_is_sent(app, client):
    token = bearer(fill())
    other_types = OTHER_TYPES if values_for(app) is VALUES else ()  # refused before a database sees them
    document = client.get("/api/openapi.json").json
    schemas = document["components"]["schemas"]
    for path, method, operation in [(path, *each) for path, all_ in document["paths"].items() for each in all_.items()]:
        if method == "parameters":
            continue
        url = re.sub(r"{[^}]+}", "1", path)
        for parameter in (each for each in operation.get("parameters", ()) if each.get("in") == "query"):
            for name, value in values_for(app).items():
                answer = client.open(url, method=method, query_string={parameter["name"]: value}, headers=token)
                assert answer.status_code < 500, (path, parameter["name"], name)
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        for field in schemas.get(body.get("$ref", "").rpartition("/")[2], {}).get("properties", ()):
            for value in (*values_for(app).values(), *other_types):
                answer = client.open(url, method=method, json=RIGHT.get(path, {}) | {field: value}, headers=token)
                assert answer.status_code < 500, (path, field, value)
