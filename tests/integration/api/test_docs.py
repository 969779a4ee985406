"""The list of all operations at /api/docs/operations."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest

from tests.reservation_factories import log_in, make_user

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
LINK = re.compile(
    r'href="/api/docs#/([^/"]+)/([^"]+)"><code class="api-method api-[a-z]+">([A-Z]+)</code> <code>([^<]+)<'
)


def test_the_list_has_every_operation_of_the_document_without_a_login_and_with_one(client):
    document = client.get("/api/openapi.json").json
    expected = {
        (operation["tags"][0], method + re.sub(r"\W", "_", path), method.upper(), path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method != "parameters"
    }
    assert len(expected) > 100
    for logs_in in (False, True):
        if logs_in:
            log_in(client, make_user())
        text = client.get("/api/docs/operations").text
        assert {(unquote(tag), *rest) for tag, *rest in LINK.findall(text)} == expected
        assert f"{len(expected)} operations" in text
    assert "/api/docs/operations" in client.get("/api/docs").text


def test_the_list_shows_what_an_operation_requires(client):
    text = client.get("/api/docs/operations").text

    def access(method: str, path: str) -> str:
        row = next(row for row in text.split("<tr>") if f">{method}</code> <code>{path}</code>" in row)
        return re.sub("<[^>]+>", "", row.split('<td class="secondary">')[1]).strip()

    assert access("POST", "/api/v1/auth/login") == "no token"
    assert access("GET", "/api/v1/jobs") == "jobs:read"
    assert access("POST", "/api/v1/jobs/retry") == "jobs:write"


def test_an_unknown_page_of_the_documentation_is_a_page_and_one_of_the_api_is_json(client):
    assert client.get("/api/docs/none").mimetype == "text/html"
    assert client.get("/api/docsnone").mimetype == "application/json"
