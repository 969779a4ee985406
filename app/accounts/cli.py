"""`flask users …`: creating and changing users."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from app.accounts import registration, second_factor, services
from app.accounts.models import Role, User
from app.schools import DEFAULT_SLUG, get_school
from flask_belfry.core.commands import CommandGroup, as_json_option, echo_json
from flask_belfry.db import db
from flask_belfry.db.pagination import MAX_LIMIT

users = CommandGroup("users", help="Creates and changes users.")

roles = click.Choice([role.value for role in Role])


class PasswordOption(click.Option):
    """A password: prompted for at a terminal, otherwise the first line of standard input."""

    def prompt_for_value(self, ctx: click.Context) -> Any:
        """Read the password. Raises click.UsageError without one."""
        if sys.stdin.isatty():
            return super().prompt_for_value(ctx)
        if not (password := sys.stdin.readline().rstrip("\r\n")):
            raise click.UsageError("--password is missing, and so is a password on standard input", ctx)
        return password


password_option = click.option(
    "--password",
    cls=PasswordOption,
    prompt=True,
    hide_input=True,
    confirmation_prompt=True,
    help="Prompted for if omitted; without a terminal, read from standard input.",
)

_FIELDS = (
    *("id", "username", "name", "email", "role", "may_operate", "school_id", "active", "is_confirmed"),
    "last_login_at",
)


@users.command("list")
@click.option("--role", type=roles)
@click.option("--school", "slug", help="The slug of a school.")
@click.option("--text", help="The beginning of a username or an email address.")
@click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=25, show_default=True)
@as_json_option
def list_(role: str | None, slug: str | None, text: str | None, limit: int, as_json: bool) -> None:
    """Lists users, newest first."""
    school = get_school(slug) if slug else None
    found = services.list_users(role=role, school=school, text=text, limit=limit)
    if as_json:
        return echo_json([{name: getattr(user, name) for name in _FIELDS} for user in found])
    for user in found:
        state = "disabled" if not user.active else "confirmed" if user.is_confirmed else "unconfirmed"
        click.echo(f"{user.id:>6}  {user.role:<6}  {state:<11}  {user.username:<24}  {user.email}")
    if not found:
        click.echo("nothing matches", err=True)
    return None


@users.command("create")
@click.option("--email", required=True, help="The email address.")
@click.option("--username", required=True, help="3 to 40 letters, digits, dots, dashes or underscores.")
@click.option("--role", type=roles, default=Role.MEMBER.value, show_default=True)
@click.option("--school", "slug", default=DEFAULT_SLUG, show_default=True, help="The slug of the user's school.")
@click.option("--name", default="", help="Shown to other users; the username by default.")
@click.option("--time-zone", help="For example Europe/Berlin; the setting TIMEZONE by default.")
@password_option
def create(email: str, username: str, role: str, slug: str, name: str, time_zone: str | None, password: str) -> None:
    """Creates a user."""
    user = services.create_user(
        username=username,
        email=email,
        password=password,
        role=role,
        name=name,
        time_zone=time_zone,
        school=get_school(slug),
    )
    _commit(user, user.role)


@users.command("set-role")
@click.argument("login")
@click.argument("role", type=roles)
def set_role(login: str, role: str) -> None:
    """Changes the role of a user, named by username or email address."""
    _change(login, {"role": role}, role)


@users.command("allow-operate")
@click.argument("login")
def allow_operate(login: str) -> None:
    """Allows a member of staff to change the school's jobs and mails."""
    _change(login, {"may_operate": True}, "may operate jobs and mails")


@users.command("forbid-operate")
@click.argument("login")
def forbid_operate(login: str) -> None:
    """Withdraws the permission to change the school's jobs and mails, which the user still sees."""
    _change(login, {"may_operate": False}, "sees jobs and mails only")


@users.command("confirm")
@click.argument("login")
def confirm(login: str) -> None:
    """Confirms a user's email address, if no mail can reach it."""
    user = services.get_user(login)
    registration.confirm(user)
    _commit(user, "confirmed")


@users.command("disable")
@click.argument("login")
def disable(login: str) -> None:
    """Disables a user: all sessions and tokens end immediately."""
    user = services.get_user(login)
    services.disable(user)
    _commit(user, "disabled")


@users.command("enable")
@click.argument("login")
def enable(login: str) -> None:
    """Lets a disabled user log in again."""
    _change(login, {"active": True}, "enabled")


@users.command("set-password")
@click.argument("login")
@password_option
def set_password(login: str, password: str) -> None:
    """Sets a password: all sessions and tokens end, and the user is notified by mail."""
    user = services.get_user(login)
    services.change_password(user, password)
    _commit(user, "password set")


@users.command("reset-second-factor")
@click.argument("login")
def reset_second_factor(login: str) -> None:
    """Removes a user's second factor and recovery codes; the user is notified by mail."""
    user = services.get_user(login)
    second_factor.reset(user)
    _commit(user, "without a second factor")


def _change(login: str, changes: Mapping[str, Any], change: str) -> None:
    user = services.get_user(login)
    services.change_user(user, changes)
    _commit(user, change)


def _commit(user: User, change: str) -> None:
    db.session.commit()
    click.echo(f"user {user.id}: {user.username} <{user.email}>, {change}")
