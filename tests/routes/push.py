"""The routes of devices, and what another user has of them."""

from __future__ import annotations

from app.accounts import User
from tests.push_factories import device
from tests.tenancy import USER, Route, many, one

ROUTES: dict[tuple[str, str], Route] = {
    ("devices.list_", "GET"): many(USER, "/account/devices"),
    ("devices.remove", "POST"): one(USER, "/account/devices/{device}/remove"),
    ("api_devices.list_devices", "GET"): many(USER, "/api/v1/me/devices"),
    ("api_devices.register_device", "POST"): Route(USER),
    ("api_devices.remove_device", "DELETE"): one(USER, "/api/v1/me/devices/{device}"),
}
UNSCOPED = ()


def make_rows(user: User) -> dict[str, int]:
    """A device of a user."""
    return {"device": device(user, name="Zarathustras phone").id}
