"""The page and the endpoints of notification preferences."""

from __future__ import annotations

from datetime import time

import pytest

from app.accounts import issue_personal_token
from app.notifications import preferences
from app.notifications.quiet_hours import QuietHours
from flask_belfry.db import db
from tests.reservation_factories import bearer, log_in, make_user
from tests.simultaneous import at_once

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PAGE, API = "/notifications/preferences", "/api/v1/me/notification-preferences"
TYPES, INSTANT = (
    ("academic", "behavior", "payment", "general"),
    {"mail": "instant", "push": "instant", "in_app": "instant"},
)
DEFAULTS = {"preferences": dict.fromkeys(TYPES, INSTANT), "quiet_from": None, "quiet_until": None}


@pytest.fixture
def user(app):
    return make_user(time_zone="Europe/Berlin")


@pytest.fixture
def headers(user):
    return bearer(user)


# ── The API ──────────────────────────────────────────────────────────────────────────────────────────────────────


@on_sqlite
def test_a_user_reads_and_changes_preferences_and_quiet_hours(client, headers):
    assert client.get(API, headers=headers).json == DEFAULTS
    body = {"preferences": {"payment": {"mail": "daily"}}, "quiet_from": "22:00", "quiet_until": "07:00"}
    changed = client.patch(API, json=body, headers=headers)
    expected = {
        "preferences": {**DEFAULTS["preferences"], "payment": {**INSTANT, "mail": "daily"}},
        "quiet_from": "22:00",
        "quiet_until": "07:00",
    }
    assert (changed.status_code, changed.json) == (200, expected)
    assert client.patch(API, json={"quiet_until": "06:30"}, headers=headers).json["quiet_from"] == "22:00"
    none = client.patch(API, json={"quiet_from": None, "quiet_until": None}, headers=headers).json
    assert none == {**expected, "quiet_from": None, "quiet_until": None}


WRONG = (
    ({"preferences": []}, "preferences"),
    ({"preferences": {"colour": {"mail": "off"}}}, "preferences.colour"),
    ({"preferences": {"payment": {"pigeon": "off"}}}, "preferences.payment.pigeon"),
    ({"preferences": {"payment": {"mail": "weekly"}}}, "preferences.payment.mail"),
    ({"preferences": {"payment": {"in_app": "daily"}}}, "preferences.payment.in_app"),
    ({"preferences": {"payment": None}}, "preferences.payment"),
    ({"quiet_from": "22:00"}, "quiet_until"),
    ({"quiet_until": "07:00"}, "quiet_from"),
    ({"quiet_from": "07:00", "quiet_until": "07:00"}, "quiet_until"),
    ({"quiet_from": "25:00", "quiet_until": "07:00"}, "quiet_from"),
    ({"quiet_from": 22, "quiet_until": "07:00"}, "quiet_from"),
    ({"time_zone": "UTC"}, "time_zone"),
)


@on_sqlite
def test_invalid_fields_are_named_and_nothing_is_changed(client, headers):
    valid = {"preferences": {"academic": {"mail": "off"}}}
    for body, field in WRONG:
        answer = client.patch(API, json=valid | body, headers=headers)
        assert (answer.status_code, list(answer.json["errors"])) == (422, [field])
    assert client.get(API, headers=headers).json == DEFAULTS


@on_sqlite
@pytest.mark.parametrize(("scope", "status"), [("profile:write", 200), ("profile:read", 403)])
def test_a_script_changes_them_with_the_scope_of_the_profile(client, user, scope, status):
    text, _ = issue_personal_token(user, "script", [scope])
    db.session.commit()
    body = {"preferences": {"payment": {"mail": "off"}}}
    assert client.patch(API, json=body, headers={"Authorization": f"Bearer {text}"}).status_code == status


def test_of_two_editors_with_the_same_etag_one_wins(app, client, headers):
    etag = client.get(API, headers=headers).headers["ETag"]
    body = {"preferences": {"payment": {"mail": "off"}}, "quiet_from": "22:00", "quiet_until": "07:00"}

    def edit(client):
        return client.patch(API, json=body, headers={**headers, "If-Match": etag}).status_code

    assert sorted(at_once(app, 2, edit)) == [200, 412]


# ── The page ─────────────────────────────────────────────────────────────────────────────────────────────────────


def form_of(**changes: str) -> dict[str, str]:
    fields = {f"{type_}_{channel}": "instant" for type_ in TYPES for channel in INSTANT}
    return fields | {"quiet_from": "", "quiet_until": ""} | changes


@on_sqlite
def test_the_page_says_whether_push_messages_are_sent(app, client, user, tmp_path):
    log_in(client, user)
    assert "Push messages are not set up here" in client.get(PAGE).text
    app.config["FCM_CREDENTIALS"] = tmp_path / "service-account.json"
    assert "Push messages are not set up here" not in client.get(PAGE).text


@on_sqlite
def test_the_page_shows_and_saves_preferences_and_quiet_hours(client, user):
    log_in(client, user)
    page = client.get(PAGE)
    assert "Europe/Berlin" in page.text
    assert page.text.count('<option selected value="instant">') == 12
    assert page.text.count('value="daily"') == 8  # not in the app
    saved = client.post(
        PAGE, data=form_of(payment_mail="daily", general_push="off", quiet_from="22:00", quiet_until="07:00")
    )
    assert (saved.status_code, saved.location) == (303, PAGE)
    page = client.get(PAGE)
    assert "Preferences saved." in page.text
    assert [page.text.count(f'<option selected value="{each}">') for each in ("instant", "daily", "off")] == [10, 1, 1]
    assert 'value="22:00"' in page.text
    assert preferences.quiet_hours_of(user) == QuietHours(time(22), time(7))
    client.post(PAGE, data=form_of())
    db.session.rollback()
    assert preferences.quiet_hours_of(user) is None
    assert {each for of_type in preferences.preferences_of(user).values() for each in of_type.values()} == {"instant"}


@on_sqlite
@pytest.mark.parametrize(
    "changes",
    [
        {"payment_in_app": "daily"},
        {"payment_mail": "weekly"},
        {"quiet_from": "22:00"},
        {"quiet_from": "22:00", "quiet_until": "22:00"},
        {"quiet_from": "late", "quiet_until": "07:00"},
    ],
)
def test_an_invalid_form_changes_nothing_and_shows_why(client, user, changes):
    log_in(client, user)
    answer = client.post(PAGE, data=form_of(general_mail="off") | changes)
    assert answer.status_code == 422
    assert "field-errors" in answer.text
    assert client.get(API, headers=bearer(user)).json == DEFAULTS


@on_sqlite
def test_the_profile_links_to_the_page(client, user):
    log_in(client, user)
    assert f'href="{PAGE}"' in client.get("/account").text
