"""Making, recognising and shutting out users, on both databases."""

from __future__ import annotations

from itertools import count

import pytest
import sqlalchemy as sa
from argon2 import PasswordHasher

from app.accounts import (
    Role,
    User,
    authenticate,
    change_password,
    create_user,
    disable,
    issue_pair,
    security,
    services,
    verify_token,
)
from app.accounts.passwords import hash_password, is_password, needs_rehash
from flask_belfry.core.errors import InvalidInputError
from tests.conftest import make_app
from tests.reservation_factories import PASSWORD, make_user

# Read before any test runs: those of all tests are the least.
OPTIONS = security.SETTINGS["PASSWORD_HASH_PASSLIB_OPTIONS"]
GOOD = {"username": "Ada.L", "email": "Ada@Example.ORG", "password": PASSWORD}


def test_a_user_is_made_with_a_lower_cased_address_and_the_username_as_typed(session):
    user = create_user(**GOOD)
    session.commit()
    assert (user.username, user.email, user.name, user.role) == ("Ada.L", "ada@example.org", "Ada.L", Role.MEMBER)
    assert PASSWORD not in user.password_hash


def test_every_wrong_field_is_named_at_once(app):
    with pytest.raises(InvalidInputError) as refused:
        create_user(username="a", email="nowhere", password="short", role="king", time_zone="Mars/Olympus")
    assert refused.value.fields.keys() == {"username", "email", "password", "role", "name", "time_zone"} - {"name"}


@pytest.mark.parametrize(
    ("change", "field"),
    [({"email": "other@example.org", "username": "ADA.l"}, "username"), ({"username": "other"}, "email")],
)
def test_usernames_and_addresses_are_unique_whatever_their_case(session, change, field):
    create_user(**GOOD)
    session.commit()
    with pytest.raises(InvalidInputError) as refused:
        create_user(**GOOD | {"email": "ADA@example.org"} | change)
    assert refused.value.fields == {field: ["already taken"]}


def test_a_name_taken_between_the_look_and_the_insert_is_said_too_and_the_session_goes_on(session, monkeypatch):
    create_user(**GOOD)
    session.commit()
    look, looks = services._check_taken, count()
    monkeypatch.setattr(services, "_check_taken", lambda *args: look(*args) if next(looks) else None)
    with pytest.raises(InvalidInputError):
        create_user(**GOOD)
    assert session.scalar(sa.select(sa.func.count()).select_from(User)) == 1


@pytest.mark.parametrize("login", ["Ada.L", "ADA.L", "ada@example.org", "ADA@EXAMPLE.ORG", " ada.l "])
def test_username_or_address_and_password_make_a_login(session, login):
    user = create_user(**GOOD)
    session.commit()
    assert authenticate(login, PASSWORD) is user


@pytest.mark.parametrize("login", ["ada.l", "nobody", "nobody@example.org", "", "a\x00b"])
def test_a_wrong_login_or_password_makes_none(session, login):
    create_user(**GOOD)
    session.commit()
    assert authenticate(login, "wrong password") is None


def test_a_hash_with_old_parameters_is_replaced_at_the_next_login(session):
    user = make_user(password_hash=PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD))
    before = user.password_hash
    assert authenticate(user.username, PASSWORD) is user
    assert user.password_hash != before
    session.commit()
    assert authenticate(user.username, PASSWORD) is user


def test_a_disabled_user_has_no_login_and_no_token(session):
    user = make_user()
    text = issue_pair(user).access_token
    disable(user)
    session.commit()
    assert authenticate(user.username, PASSWORD) is None
    assert verify_token(text) is None


def test_a_new_password_ends_sessions(session):
    user = make_user()
    before = user.get_id()
    change_password(user, "another password")
    session.commit()
    assert user.get_id() != before
    assert authenticate(user.username, "another password") is user


def test_a_password_hash_is_argon2id_and_matches_only_its_own_password(app):
    hashed = hash_password("a good password")
    assert hashed.startswith("$argon2id$")
    assert is_password(hashed, "a good password")
    assert not is_password(hashed, "another password")
    assert not is_password("no hash at all", "a good password")
    assert not needs_rehash(hashed)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_outside_of_tests_a_password_hash_costs_what_owasp_asks_for(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(security.SETTINGS, "PASSWORD_HASH_PASSLIB_OPTIONS", OPTIONS)
    with make_app(settings, tmp_path).app_context():
        assert hash_password(PASSWORD).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
