"""What accounts decide without a database."""

from __future__ import annotations

import pytest

from app.accounts import Role, User, allow, can
from app.accounts.permissions import _rules
from app.accounts.validation import valid_name, valid_username
from app.schools import School, valid_time_zone
from flask_belfry.core.clock import utc_now


@pytest.fixture
def _own_rules():
    before = dict(_rules)
    yield
    _rules.clear()
    _rules.update(before)


@pytest.mark.usefixtures("_own_rules")
def unsaved_user(**values):
    return User(**{"role": Role.MEMBER, "active": True, "confirmed_at": utc_now(), "school": School()} | values)


class TestCan:
    def test_an_anonymous_user_may_do_nothing(self):
        allow("test.do", lambda user, row: True)
        assert not can(None, "test.do")

    def test_an_action_without_a_rule_is_closed_even_to_admins(self):
        assert not can(unsaved_user(role=Role.ADMIN), "test.unheard_of")

    def test_a_disabled_or_unconfirmed_user_and_one_of_a_disabled_school_may_do_nothing(self):
        allow("test.do", lambda user, row: True)
        assert can(unsaved_user(), "test.do")
        assert not can(unsaved_user(role=Role.ADMIN, active=False), "test.do")
        assert not can(unsaved_user(role=Role.ADMIN, confirmed_at=None), "test.do")
        assert not can(unsaved_user(role=Role.ADMIN, school=School(disabled_at=utc_now())), "test.do")

    def test_a_rule_sees_the_row(self):
        allow("test.do", lambda user, row: row == "mine")
        user = unsaved_user()
        assert can(user, "test.do", "mine")
        assert not can(user, "test.do", "yours")


@pytest.mark.parametrize("username", ["abc", "a.b-c_d", "A1B2", "x" * 40])
def test_usernames_that_are_taken(username):
    assert valid_username(username) == username


@pytest.mark.parametrize("username", ["ab", "x" * 41, "a@b", ".abc", "abc.", "a b c", "ünder", "abc\n", "a\x00bc"])
def test_usernames_that_are_refused(username):
    with pytest.raises(ValueError, match="3 to 40"):
        valid_username(username)


def test_names_get_single_spaces_and_no_control_characters():
    assert valid_name("  Ada   Lovelace ") == "Ada Lovelace"
    for name in ("", "   ", "a\x00b", "x" * 121):
        with pytest.raises(ValueError, match="printable"):
            valid_name(name)


def test_only_known_time_zones_are_taken():
    assert valid_time_zone("Europe/Berlin") == "Europe/Berlin"
    for name in ("Mars/Olympus", "../../etc/passwd", ""):
        with pytest.raises(ValueError, match="time zone"):
            valid_time_zone(name)
