"""Users with a second factor, as their browsers see it."""

from __future__ import annotations

import re

from flask.testing import FlaskClient
from passlib.totp import TOTP

from app.accounts import User
from tests.reservation_factories import PASSWORD


def set_up_second_factor(client: FlaskClient) -> TOTP:
    """What the authenticator app of the client's user computes codes with."""
    page = client.post("/account/two-factor", data={"setup": "authenticator"})
    key = re.search(r"Key: <code>([A-Z2-7 -]+)</code>", page.text)
    assert key is not None, page.text
    app = TOTP(key=key[1].replace("-", "").replace(" ", ""))
    action = re.search(r'action="(/account/two-factor/[^"]+|/login/code)"', page.text)
    assert action is not None, page.text
    assert client.post(action[1], data={"code": app.generate().token}).status_code == 302
    return app


def log_in_by_password(client: FlaskClient, user: User) -> str:
    answer = client.post("/login", data={"login": user.username, "password": PASSWORD})
    assert answer.status_code == 302
    return answer.location
