"""A code of a second factor lets in once, also those who bring it together."""

from __future__ import annotations

import re

import pytest
import time_machine

from tests.reservation_factories import log_in, make_user
from tests.second_factors import log_in_by_password, set_up_second_factor
from tests.simultaneous import at_once


@pytest.mark.parametrize("kind", ["code", "recovery code"])
def test_of_several_logins_with_one_code_at_the_same_time_one_gets_in(app, client, kind):
    with time_machine.travel("2030-01-01T12:00:00Z", tick=False) as clock:
        user = make_user()
        log_in(client, user)
        factor = set_up_second_factor(client)
        recovery_codes = re.findall(r"<code>([^<]+)</code>", client.post("/account/recovery-codes").text)
        clock.shift(60)
        path, code = {
            "code": ("/login/code", factor.generate().token),
            "recovery code": ("/login/recovery-code", recovery_codes[0]),
        }[kind]
        browsers = [app.test_client() for _ in range(4)]
        for browser in browsers:
            log_in_by_password(browser, user)
        answers = at_once(app, 4, lambda _: browsers.pop().post(path, data={"code": code}))
    assert sorted(answer.status_code for answer in answers) == [302, 422, 422, 422]
