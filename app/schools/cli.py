"""`flask schools …`: creating, renaming and disabling schools."""

from __future__ import annotations

import click
import sqlalchemy as sa

from app.schools import services
from app.schools.models import School
from flask_belfry.core.commands import CommandGroup, as_json_option, echo_json
from flask_belfry.db import db

schools = CommandGroup("schools", help="Creates, renames and disables schools.")

_FIELDS = ("id", "slug", "name", "time_zone", "is_disabled", "created_at")


@schools.command("list")
@as_json_option
def list_(as_json: bool) -> None:
    """Lists schools by name."""
    found = db.session.scalars(sa.select(School).order_by(School.name, School.id)).all()
    if as_json:
        return echo_json([{name: getattr(school, name) for name in _FIELDS} for school in found])
    for school in found:
        state = "disabled" if school.is_disabled else "enabled"
        click.echo(f"{school.id:>6}  {state:<8}  {school.slug:<24}  {school.name}")
    return None


@schools.command("create")
@click.argument("name")
@click.option("--slug", required=True, help="Lower-case letters, digits and hyphens; cannot be changed.")
@click.option("--time-zone", help="For example Europe/Berlin; the setting TIMEZONE by default.")
def create(name: str, slug: str, time_zone: str | None) -> None:
    """Creates a school."""
    _commit(services.create_school(name, slug, time_zone), "created")


@schools.command("rename")
@click.argument("slug")
@click.argument("name")
def rename(slug: str, name: str) -> None:
    """Changes the name of a school; its slug stays."""
    school = services.get_school(slug)
    services.change_school(school, {"name": name})
    _commit(school, "renamed")


@schools.command("disable")
@click.argument("slug")
def disable(slug: str) -> None:
    """Disables a school: its users cannot log in, and nothing is sent for it. Nothing is deleted."""
    school = services.get_school(slug)
    services.disable_school(school)
    _commit(school, "disabled")


@schools.command("enable")
@click.argument("slug")
def enable(slug: str) -> None:
    """Enables a disabled school again."""
    school = services.get_school(slug)
    services.enable_school(school)
    _commit(school, "enabled")


def _commit(school: School, change: str) -> None:
    db.session.commit()
    click.echo(f"school {school.id}: {school.slug}, {school.name}, {change}")
