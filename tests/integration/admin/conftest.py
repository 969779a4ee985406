"""An administrator and the admin panel."""

from __future__ import annotations

import pytest

from app.accounts import Role, User
from tests.reservation_factories import log_in, make_user


@pytest.fixture
def admin(session) -> User:
    return make_user(Role.ADMIN)


@pytest.fixture
def panel(client, admin):
    """The browser of an admin."""
    return log_in(client, admin)
