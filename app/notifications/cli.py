"""The commands `flask notifications …`."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import click
import sqlalchemy as sa

from app.accounts import Role, User, get_user
from app.directory import SchoolClass, Student
from app.notifications import queries, services
from app.notifications.content import CHANNELS, Content, Targets
from app.notifications.models import Notification, NotificationState, NotificationType
from app.schools import School, default_school, get_school
from flask_belfry.core.commands import CommandGroup, as_json_option, echo_json
from flask_belfry.core.errors import InvalidInputError, NotFoundError
from flask_belfry.db import db
from flask_belfry.db.pagination import MAX_LIMIT

notifications = CommandGroup("notifications", help="Send notifications, list them, retry and cancel them.")

SHOWN = ("id", "school_id", "title", "type", "is_critical", "state", "channels", "sender_id", "batch_id", "created_at")
TARGETS = "user:USERNAME, user:ID, role:ROLE, class:NAME, student:NUMBER or everyone"


def _choice(enum: Any) -> click.Choice[str]:
    return click.Choice([member.value for member in enum], case_sensitive=False)


@notifications.command("list")
@click.option("--school", help="Slug of a school.")
@click.option("--state", type=_choice(NotificationState))
@click.option("--type", "type_", type=_choice(NotificationType))
@click.option("--text", help="Search in the title.")
@click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=25, show_default=True)
@as_json_option
def list_(
    school: str | None, state: str | None, type_: str | None, text: str | None, limit: int, as_json: bool
) -> None:
    """List notifications, newest first."""
    filters = queries.Filters(
        state=NotificationState(state) if state else None,
        type=NotificationType(type_) if type_ else None,
        school_id=get_school(school).id if school else None,
        text=text,
    )
    found = queries.page(filters, limit=limit).items
    counts = queries.counts([notification.id for notification in found])
    if as_json:
        return echo_json([_fields(notification) | {"deliveries": counts[notification.id]} for notification in found])
    for each in found:
        click.echo(f"{each.id}  {each.created_at:%Y-%m-%d %H:%M}  {each.state:<9}  {each.type:<8}  {each.title}")
    if not found:
        click.echo("no notifications match", err=True)
    return None


@notifications.command()
@click.argument("notification_id", metavar="ID")
@as_json_option
def show(notification_id: str, as_json: bool) -> None:
    """Show a notification with the number of its deliveries by channel and state."""
    found = queries.get(notification_id)
    counts = queries.counts([found.id])[found.id]
    people, left_out = queries.count_recipients(found.id)
    if as_json:
        more = {"body": found.body, "targets": found.targets, "recipients": people, "left_out": left_out}
        return echo_json(_fields(found) | more | {"deliveries": counts})
    for name, value in _fields(found).items():
        click.echo(f"{name.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}")
    click.echo(f"recipients: {people}, left out: {left_out}")
    for channel, by_state in sorted(counts.items()):
        click.echo(f"{channel}: {', '.join(f'{count} {state}' for state, count in sorted(by_state.items()))}")
    return None


@notifications.command()
@click.option("--school", help="Slug of the school; by default that of the installation.")
@click.option("--to", "targets", multiple=True, required=True, help=f"{TARGETS}; repeatable.")
@click.option("--title", required=True, help="One line.")
@click.option("--body", required=True, help="The text; blank lines separate paragraphs.")
@click.option("--type", "type_", type=_choice(NotificationType), default="general", show_default=True)
@click.option("--channel", "channels", multiple=True, type=click.Choice(CHANNELS), help="Repeatable; by default all.")
@click.option("--critical", is_flag=True, help="Pass preferences and quiet hours.")
@click.option("--as", "login", help="Username or email address of the sender; by default the system.")
@as_json_option
def send(
    school: str | None,
    targets: tuple[str, ...],
    title: str,
    body: str,
    type_: str,
    channels: tuple[str, ...],
    critical: bool,
    login: str | None,
    as_json: bool,
) -> None:
    """Send a notification."""
    sender = get_user(login) if login else None
    found = get_school(school) if school else default_school()
    content = Content(
        title=title,
        body=body,
        type=NotificationType(type_),
        targets=_targets(targets, found),
        is_critical=critical,
        channels=channels or CHANNELS,
    )
    notification = services.send(content, sender, found.id)
    people, left_out = queries.count_recipients(notification.id)
    db.session.commit()
    if as_json:
        return echo_json(_fields(notification) | {"recipients": people, "left_out": left_out})
    click.echo(f"{notification.id}: {people} recipients, {left_out} left out")
    return None


@notifications.command()
@click.argument("notification_id", metavar="ID")
def retry(notification_id: str) -> None:
    """Retry the failed deliveries of a notification."""
    count = services.retry_failed(notification_id)
    db.session.commit()
    click.echo(f"{count} deliveries are tried again")


@notifications.command()
@click.argument("notification_id", metavar="ID")
def cancel(notification_id: str) -> None:
    """Cancel what is not delivered yet."""
    services.cancel(notification_id)
    db.session.commit()
    click.echo("cancelled")


def _fields(notification: Notification) -> dict[str, Any]:
    return {name: getattr(notification, name) for name in SHOWN}


def _targets(words: tuple[str, ...], school: School) -> Targets:
    found: defaultdict[str, list[Any]] = defaultdict(list)
    for word in words:
        kind, _, name = word.partition(":")
        if kind == "user" and name:
            found["users"].append(_user_id(name, school))
        elif kind == "role" and name in list(Role):
            found["roles"].append(name)
        elif kind == "class" and name:
            found["classes"].append(_id_of(SchoolClass, SchoolClass.name == name, school, f"class {name!r}"))
        elif kind == "student" and name:
            found["students"].append(_id_of(Student, Student.number == name, school, f"student {name!r}"))
        elif word != "everyone":
            raise InvalidInputError(f"Invalid target {word!r}: use {TARGETS}.", {"to": [f"must be {TARGETS}"]})
    return Targets(**{name: tuple(values) for name, values in found.items()}, everyone="everyone" in words)


def _user_id(name: str, school: School) -> int:
    if name.isascii() and name.isdecimal():
        return _id_of(User, User.id == int(name), school, f"user {name}")
    user = get_user(name)
    if user.school_id != school.id:
        raise NotFoundError(f"There is no user {name!r} at {school.name}.")
    return user.id


def _id_of(model: type[Any], condition: sa.ColumnElement[bool], school: School, named: str) -> int:
    id = db.session.scalar(sa.select(model.id).where(condition, model.school_id == school.id))
    if id is None:
        raise NotFoundError(f"There is no {named} at {school.name}.")
    return id
