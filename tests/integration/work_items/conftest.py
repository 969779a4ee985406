"""Logged-in users for the pages of work items."""

from __future__ import annotations

import pytest

from app.accounts import Role
from tests.reservation_factories import log_in, make_user


@pytest.fixture
def staff(client):
    user = make_user(Role.STAFF)
    log_in(client, user)
    return user


@pytest.fixture
def member(client):
    user = make_user()
    log_in(client, user)
    return user
