"""What a page says when something is refused, in plain words and with a way back."""

from __future__ import annotations

import pytest

from app.accounts import Role
from app.accounts.limits import LOGINS
from tests.reservation_factories import log_in, make_user

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ORIGIN = "http://localhost"
BACK = '<a class="btn btn-primary" href="{}">Back to the previous page</a>'


@pytest.mark.parametrize("is_logged_in", [False, True])
def test_a_form_that_has_expired_says_so_and_leads_back_to_it(app, client, is_logged_in):
    if is_logged_in:
        log_in(client, make_user())
    app.config["WTF_CSRF_ENABLED"] = True
    page = f"{ORIGIN}/account?from=here"
    answer = client.post("/account" if is_logged_in else "/login", headers={"Referer": page})
    assert answer.status_code == 400
    assert "This form has expired, and nothing was saved." in answer.text
    assert BACK.format(page) in answer.text
    assert "CSRF token" not in answer.text
    assert "Bad Request" not in answer.text


def test_too_many_attempts_say_in_minutes_when_to_try_again(client, clock):
    user = make_user()
    sent = {"login": user.username, "password": "wrong"}
    headers = {"Referer": f"{ORIGIN}/login"}
    answers = [client.post("/login", data=sent, headers=headers) for _ in range(LOGINS.times + 1)]
    answer = answers[-1]
    assert answer.status_code == 429
    assert "Too many attempts. Try again in 15 minutes." in answer.text
    assert "Too Many Requests" not in answer.text
    assert answer.headers["Retry-After"] == "900"
    assert BACK.format(f"{ORIGIN}/login") in answer.text


@pytest.mark.parametrize(
    "referer",
    ["", "https://elsewhere.example/", "http://localhost.elsewhere.example/", f"{ORIGIN}/no-such-page", "javascript:1"],
)
def test_the_way_back_leads_to_another_page_of_ours_or_nowhere(client, referer):
    answer = client.get("/no-such-page", headers={"Referer": referer})
    assert "Back to the previous page" not in answer.text
    assert "Go to the start page" in answer.text


@pytest.mark.parametrize(
    ("path", "method", "title"),
    [("/no-such-page", "GET", "Not found"), ("/login", "DELETE", "Method not allowed")],
)
def test_no_page_has_a_title_from_the_protocol(client, path, method, title):
    assert f"<h1>{title}</h1>" in client.open(path, method=method).text


def test_an_unconfirmed_member_of_staff_sees_the_page_of_an_error(client):
    log_in(client, make_user(Role.STAFF, confirmed_at=None))
    answer = client.get("/no-such-page")
    assert (answer.status_code, "<h1>Not found</h1>" in answer.text) == (404, True)
