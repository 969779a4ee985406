"""A login redirects only within the site."""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

import pytest

from tests.reservation_factories import PASSWORD, make_user

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def settings(settings):
    """Rate limits are off: web/test_rate_limits.py is about them."""
    return settings | {"RATE_LIMITS_ENABLED": "false"}


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
def test_an_invalid_url_is_refused(client, target):
    data = {"login": make_user().username, "password": PASSWORD}
    assert client.get("/login", query_string={"next": target}).status_code == 400
    assert client.post("/login", query_string={"next": target}, data=data).status_code == 400
    assert client.post("/login", data=data | {"next": target}).status_code == 400
