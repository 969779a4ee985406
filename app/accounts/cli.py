"""`flask users …`: making users and changing what they may do."""

from __future__ import annotations

import click

from app.accounts import registration, services
from app.accounts.models import Role
from app.commands import CommandGroup
from app.extensions import db
from app.schools import DEFAULT_SLUG, get_school

users = CommandGroup("users", help="Makes users and changes what they may do.")

roles = click.Choice([role.value for role in Role])


@users.command("create")
@click.option("--email", required=True, help="The address mails go to.")
@click.option("--username", required=True, help="3 to 40 letters, digits, dots, dashes or underscores.")
@click.option("--role", type=roles, default=Role.MEMBER.value, show_default=True)
@click.option("--school", "slug", default=DEFAULT_SLUG, show_default=True, help="The slug of the user's school.")
@click.option("--name", default="", help="As others see it; the username when absent.")
@click.option("--time-zone", help="As Europe/Berlin; the setting TIMEZONE when absent.")
@click.option("--password", prompt=True, hide_input=True, confirmation_prompt=True, help="Asked for when absent.")
def create(email: str, username: str, role: str, slug: str, name: str, time_zone: str | None, password: str) -> None:
    """Makes a user."""
    user = services.create_user(
        username=username,
        email=email,
        password=password,
        role=role,
        name=name,
        time_zone=time_zone,
        school=get_school(slug),
    )
    db.session.commit()
    click.echo(f"user {user.id}: {user.username} <{user.email}>, {user.role}")


@users.command("set-role")
@click.argument("login")
@click.argument("role", type=roles)
def set_role(login: str, role: str) -> None:
    """Gives the user of a username or email address another role."""
    user = services.get_user(login)
    services.set_role(user, role)
    db.session.commit()
    click.echo(f"user {user.id}: {user.username} <{user.email}>, {user.role}")


@users.command("confirm")
@click.argument("login")
def confirm(login: str) -> None:
    """Takes a user's address for confirmed, where no mail can reach them."""
    user = services.get_user(login)
    registration.confirm(user)
    db.session.commit()
    click.echo(f"user {user.id}: {user.username} <{user.email}>, confirmed")


@users.command("disable")
@click.argument("login")
def disable(login: str) -> None:
    """Shuts a user out: logins, sessions and tokens end at once."""
    user = services.get_user(login)
    services.disable(user)
    db.session.commit()
    click.echo(f"user {user.id}: {user.username} <{user.email}>, disabled")
