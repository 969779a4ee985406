"""No page is a dead end: each leads back to the page that led there."""

from __future__ import annotations

import re

import pytest

from app.accounts import Role
from tests.reservation_factories import log_in, make_user

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def ways(page: str) -> list[str]:
    """Where the line above the title, or the card of a user who is not logged in, leads."""
    line = re.search(r'<p class="breadcrumb-line">(.*?)</p>', page)
    links = re.search(r'<p class="plain-links">(.*?)</p>', page, re.DOTALL)
    return re.findall(r'href="([^"]+)"', "".join(found[1] for found in (line, links) if found))


def test_every_page_of_the_account_leads_back_to_it(app, client):
    log_in(client, make_user())
    pages = sorted(
        rule.rule
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/account/") and "GET" in (rule.methods or ()) and not rule.arguments
    )
    assert {"/account/password", "/account/two-factor", "/account/tokens", "/account/addresses"} <= set(pages)
    assert [path for path in pages if "/account" not in ways(client.get(path, follow_redirects=True).text)] == []


@pytest.mark.parametrize("path", ["/register", "/forgot-password", "/confirm"])
def test_the_pages_before_a_login_lead_to_it(client, path):
    assert "/login" in ways(client.get(path).text)


def test_every_other_page_is_in_the_navigation_or_leads_back(app, client):
    log_in(client, make_user(Role.ADMIN))
    start = client.get("/").text
    navigation = set(re.findall(r'class="(?:nav-item-link|menu-item|brand|bell)" href="([^"]+)"', start))
    skipped = ("/api", "/static", "/healthz", "/readyz", "/metrics", "/login", "/register", "/confirm", "/forgot")
    for rule in app.url_map.iter_rules():
        if "GET" not in (rule.methods or ()) or rule.arguments or rule.rule.startswith(skipped):
            continue
        answer = client.get(rule.rule)
        if answer.status_code != 200 or "<h1" not in answer.text:
            continue  # it asks for a row, is a part of a page or leads elsewhere
        is_beside_another = rule.rule == "/work-items"  # the list, beside the board
        assert rule.rule in navigation or is_beside_another or ways(answer.text), (
            f"{rule.rule}: add {{{{ nav_link({rule.endpoint!r}, …) }}}} to app/templates/layout.html, "
            "or a block `breadcrumb` to the page's template"
        )
