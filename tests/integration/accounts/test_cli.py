"""`flask users …`."""

from __future__ import annotations

import json

import click.testing
import pytest
import sqlalchemy as sa

from app.accounts import Role, User, authenticate
from flask_belfry.mail import EmailMessage
from tests.admin_panel import changes
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


def test_create_prompts_for_an_absent_password_at_a_terminal(app, monkeypatch):
    monkeypatch.setattr(click.testing._NamedTextIOWrapper, "isatty", lambda _: True, raising=False)
    result = run(app, *CREATE, input=f"{PASSWORD}\n{PASSWORD}\n")
    assert result.exit_code == 0, result.output
    assert "Repeat for confirmation" in result.output
    assert PASSWORD not in result.output
    assert authenticate("ada", PASSWORD) is not None


@pytest.mark.filterwarnings("error")  # getpass warns on stderr where there is no terminal
@pytest.mark.parametrize("command", [CREATE, ["users", "set-password", "grace"]], ids=" ".join)
def test_without_a_terminal_an_absent_password_is_read_from_standard_input(app, session, command):
    make_user(username="grace")
    session.rollback()
    assert run(app, *command, input="another-long-secret\n").exit_code == 0
    assert authenticate("ada" if command is CREATE else "grace", "another-long-secret") is not None
    refused = run(app, *command, input="")
    assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)


def test_what_is_wrong_is_said_in_one_line_on_stderr(app, session):
    result = run(app, "users", "create", "--email", "nowhere", "--username", "x", "--password", "short")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert all(field in result.stderr for field in ("email:", "username:", "password:"))
    assert session.scalar(sa.select(sa.func.count()).select_from(User)) == 0


def test_set_role_and_disable_and_enable_change_a_user(app, session):
    user = make_user()
    assert run(app, "users", "set-role", user.email, "staff").exit_code == 0
    assert run(app, "users", "disable", user.username).exit_code == 0
    session.refresh(user)
    assert (user.role, user.active) == ("staff", False)
    session.rollback()
    assert run(app, "users", "enable", user.username).exit_code == 0
    assert authenticate(user.username, PASSWORD) is not None


def test_staff_may_operate_jobs_and_mails_while_it_is_allowed_and_they_are_staff(app, session):
    user = make_user(Role.STAFF, username="ada", may_operate=False)
    seen = []
    for command in (["allow-operate", "ada"], ["forbid-operate", "ada"], ["allow-operate", "ada"]):
        assert run(app, "users", *command).exit_code == 0
        session.refresh(user)
        seen.append(user.is_operator)
    assert seen == [True, False, True]
    recorded = [(old, new) for old, new, *_ in changes(f"user/{user.id}", "may_operate")]
    assert recorded == [("False", "True"), ("True", "False"), ("False", "True")]
    for role in ("member", "staff"):  # a permission does not come back with the role
        assert run(app, "users", "set-role", "ada", role).exit_code == 0
        session.refresh(user)
        assert (user.may_operate, user.is_operator) == (False, False)
    assert run(app, "users", "set-role", "ada", "member").exit_code == 0
    refused = run(app, "users", "allow-operate", "ada")
    assert (refused.exit_code, "is for staff only" in refused.stderr) == (1, True)


@pytest.mark.parametrize("command", [["set-role", "ada", "staff"], ["disable", "ada"]], ids=" ".join)
def test_the_last_admin_is_neither_demoted_nor_disabled(app, session, command):
    admin = make_user(Role.ADMIN, username="ada")
    make_user(Role.ADMIN, active=False)
    make_user(Role.ADMIN, confirmed_at=None)
    refused = run(app, "users", *command)
    assert (refused.exit_code, refused.stderr) == (
        1,
        "Error: This is the only admin: make another user an admin first.\n",
    )
    session.refresh(admin)
    assert (admin.role, admin.active) == (Role.ADMIN, True)
    session.rollback()
    make_user(Role.ADMIN)
    assert run(app, "users", *command).exit_code == 0


def test_list_shows_users_newest_first_and_filters(app):
    school = make_school()
    make_user(Role.ADMIN, username="ada")
    make_user(username="grace", confirmed_at=None, school_id=school.id)
    make_user(username="emmy", active=False)
    lines = [line.split() for line in run(app, "users", "list").stdout.splitlines()]
    assert [line[1:4] for line in lines] == [
        ["member", "disabled", "emmy"],
        ["member", "unconfirmed", "grace"],
        ["admin", "confirmed", "ada"],
    ]
    for options, expected in (
        (["--role", "admin"], "ada"),
        (["--school", school.slug], "grace"),
        (["--text", "EM"], "emmy"),
    ):
        (shown,) = json.loads(run(app, "users", "list", *options, "--json").stdout)
        assert shown["username"] == expected
    assert "password_hash" not in shown


def test_set_password_ends_sessions_and_notifies_the_user(app, session):
    user = make_user(username="ada")
    before = user.fs_uniquifier
    session.rollback()
    assert run(app, "users", "set-password", "ada", "--password", "another-long-secret").exit_code == 0
    assert authenticate("ada", "another-long-secret").fs_uniquifier != before
    assert session.scalars(sa.select(EmailMessage.kind)).all() == ["password-changed"]
    session.rollback()
    assert run(app, "users", "set-password", "ada", "--password", "short").exit_code == 1


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
    assert "belongs to another user" in result.stderr


def test_reset_second_factor_removes_it_and_mails_the_user(app, session):
    user = make_user(tf_primary_method="authenticator", tf_totp_secret="x", mf_recovery_codes=["y"])
    result = run(app, "users", "reset-second-factor", user.username)
    assert result.exit_code == 0, result.output
    session.refresh(user)
    assert (user.tf_primary_method, user.tf_totp_secret, user.mf_recovery_codes) == (None, None, None)
    assert session.scalars(sa.select(EmailMessage.kind)).all() == ["second-factor-changed"]
    again = run(app, "users", "reset-second-factor", user.username)
    assert (again.exit_code, again.stderr.count("\n")) == (1, 1)
    assert "has no second factor" in again.stderr
