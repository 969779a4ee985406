"""The routes of notification preferences: everyone has their own."""

from __future__ import annotations

from app.accounts import User
from tests.tenancy import USER, Route, many

API = "/api/v1/me/notification-preferences"

ROUTES: dict[tuple[str, str], Route] = {
    ("notification_preferences.edit", "GET"): many(USER, "/notifications/preferences"),
    ("notification_preferences.update", "POST"): Route(USER),
    ("api_notification_preferences.get_preferences", "GET"): many(USER, API),
    ("api_notification_preferences.change_preferences", "PATCH"): Route(USER, (API,), {}, 200),
}

UNSCOPED = ()


def make_rows(user: User) -> dict[str, str]:
    """Nothing: no path has an id."""
    return {}
