"""`flask users …`."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from app.accounts import User, authenticate
from tests.reservation_factories import PASSWORD, make_school, make_user

# Nothing here is about the database.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

CREATE = ["users", "create", "--email", "a@example.org", "--username", "ada", "--role", "staff"]


def run(app, *arguments, **options):
    return app.test_cli_runner().invoke(args=list(arguments), **options)


def test_create_makes_a_user(app):
    result = run(app, *CREATE, "--password", PASSWORD)
    assert result.exit_code == 0, result.output
    assert "ada <a@example.org>, staff" in result.output
    assert authenticate("ada", PASSWORD).is_staff


def test_create_puts_the_user_into_a_school(app, session):
    school = make_school()
    assert run(app, *CREATE, "--school", school.slug, "--password", PASSWORD).exit_code == 0
    assert session.scalars(sa.select(User.school_id)).one() == school.id
    refused = run(app, *CREATE, "--school", "nowhere", "--password", PASSWORD)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "There is no school 'nowhere'." in refused.stderr


def test_create_asks_for_an_absent_password(app):
    result = run(app, *CREATE, input=f"{PASSWORD}\n{PASSWORD}\n")
    assert result.exit_code == 0, result.output
    assert PASSWORD not in result.output
    assert authenticate("ada", PASSWORD) is not None


def test_what_is_wrong_is_said_in_one_line_on_stderr(app, session):
    result = run(app, "users", "create", "--email", "nowhere", "--username", "x", "--password", "short")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert all(field in result.stderr for field in ("email:", "username:", "password:"))
    assert session.scalar(sa.select(sa.func.count()).select_from(User)) == 0


def test_set_role_and_disable_change_a_user(app, session):
    user = make_user()
    assert run(app, "users", "set-role", user.email, "admin").exit_code == 0
    assert run(app, "users", "disable", user.username).exit_code == 0
    session.refresh(user)
    assert (user.role, user.active) == ("admin", False)


def test_an_unknown_user_is_said(app):
    result = run(app, "users", "disable", "nobody")
    assert result.exit_code == 1
    assert "nobody" in result.stderr


def test_confirm_takes_an_address_for_confirmed_unless_it_is_anothers(app, session):
    user = make_user(email="ada@example.org", confirmed_at=None)
    late = make_user(email="ada@example.org", confirmed_at=None)
    assert run(app, "users", "confirm", user.username).exit_code == 0
    session.refresh(user)
    assert user.is_confirmed
    result = run(app, "users", "confirm", late.username)
    assert result.exit_code == 1
    assert "another user's" in result.stderr
