"""The commands `flask demo …`: data of a sample school. Core inserts: no listener is called, no mail is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import click
import sqlalchemy as sa
from flask import Flask, current_app

from app.accounts import AddressState, LoginAddress, Role, User, hash_password
from app.demo.directory import load_directory, wipe_directory
from app.demo.work_items import load_work, wipe_work
from app.reservations import Reservation, ReservationStatus, Resource
from app.schools import default_school
from app.web.limiting import network_of
from flask_belfry.changes import StatusChange, subject_type
from flask_belfry.core.clock import utc_now
from flask_belfry.core.commands import CommandGroup
from flask_belfry.db import db, insert_ignoring_conflicts
from flask_belfry.db.columns import new_id
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope

DEMO_PASSWORD = "belfry-demo"  # noqa: S105 - shown on the login page of every demo


class Person(NamedTuple):
    """A demo user."""

    username: str
    name: str
    role: Role
    may_operate: bool = False

    @property
    def title(self) -> str:
        """The role, and whether it is read-only for jobs and mails."""
        return "staff, read-only" if self.role is Role.STAFF and not self.may_operate else self.role.value

    @property
    def email(self) -> str:
        """The email address, in a reserved domain (RFC 2606)."""
        return f"{self.username}@example.org"


# Shown on the login page; the customers below only fill the lists.
LOGINS = (
    Person("admin", "Ada Admin", Role.ADMIN),
    Person("staff", "Stefan Staff", Role.STAFF, may_operate=True),
    Person("reader", "Rosa Reader", Role.STAFF),
    Person("member", "Mia Member", Role.MEMBER),
)
CUSTOMERS = (
    Person("noether", "Emmy Noether", Role.MEMBER),
    Person("ramanujan", "Srinivasa Ramanujan", Role.MEMBER),
    Person("hopper", "Grace Hopper", Role.MEMBER),
    Person("banneker", "Benjamin Banneker", Role.MEMBER),
)
# Users with a known IP address on this machine: a login of the third one sends the mail about a new IP address.
KNOWN_HERE = ("admin", "staff")
LOOPBACK = ("127.0.0.1", "::1")
RESOURCES = {"Music room": 6, "Assembly hall": 120, "Chemistry lab": 24}
NOTES = ("", "We bring our own instruments.", "Please leave the piano open.", "", "A projector would help.")

FIRST_DAY, LAST_DAY = -6, 6
PER_DAY = 2


@dataclass(frozen=True)
class Ids:
    """Ids of the demo: its school, its users by username, and its resources in order."""

    school: int
    users: Mapping[str, int]
    resources: Sequence[int]


demo = CommandGroup("demo", help="Load or remove sample users, students, resources, reservations and work items.")


@demo.command("load")
@click.option("--force", is_flag=True, help="Allow it in production, although the passwords are public.")
def load_command(force: bool) -> None:
    """Load missing demo data and print the logins. Sends no mails."""
    if current_app.config["APP_ENV"] == "production" and not force:
        raise click.ClickException(
            "this is production, and the passwords of the demo are public; use --force to load it anyway"
        )
    made = load()
    click.echo(
        f"Demo loaded: {made} reservations, work items and students created, no mails sent."
        if made
        else "The demo is already loaded."
    )
    for person in LOGINS:
        click.echo(f"  {person.email}  {DEMO_PASSWORD}  ({person.title})")


@demo.command("wipe")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def wipe_command(yes: bool) -> None:
    """Remove the users, students and resources of the demo, with all reservations and work items of these users."""
    if current_app.config["APP_ENV"] == "production":
        raise click.ClickException("this is production; nothing was removed")
    if not yes:
        click.confirm("Remove the demo users and all their reservations and work items?", abort=True)
    click.echo(f"{wipe()} reservations removed.")


def init_app(app: Flask) -> None:
    """Show the logins on the login page while the demo is loaded."""
    app.extensions["demo_logins"] = demo_logins


def demo_logins() -> list[tuple[str, str, str]] | None:
    """Return login, password and role of each demo user; None in production or if the demo is not loaded."""
    if current_app.config["APP_ENV"] == "production":
        return None
    emails = [person.email for person in LOGINS]
    with use_scope(ALL_TENANTS):  # readers of the login page have no scope yet
        known = set(db.session.scalars(sa.select(User.email).where(User.email.in_(emails), User.active)))
    return [(person.email, DEMO_PASSWORD, person.title) for person in LOGINS if person.email in known] or None


def load() -> int:
    """Load missing demo data and commit. The data is the same on every machine, relative to the current day.

    Returns:
        number of new reservations, work items and students; 0 if the demo was loaded before.
    """
    school_id = default_school().id
    ids = Ids(school_id, _load_users(school_id), _load_resources(school_id))
    _load_login_addresses(ids)
    zone = ZoneInfo(current_app.config["TIMEZONE"])
    today = utc_now().astimezone(zone).date()
    made = load_work(school_id, ids.users, today) + load_directory(school_id, ids.users, today)
    if not _has_reservations(ids):
        rows = _reservation_rows(ids, zone)
        _insert_reservations(rows, ids.users["staff"])
        made += len(rows)
    db.session.commit()
    return made


def wipe() -> int:
    """Remove the demo and commit; resources with reservations of other users are kept.

    Returns:
        number of removed reservations.
    """
    connection = db.session.connection()
    users = sa.select(User.id).where(User.email.in_([person.email for person in (*LOGINS, *CUSTOMERS)]))
    wipe_work(users)
    wipe_directory(default_school().id, users)
    others = sa.update(Reservation).where(Reservation.created_by_id.in_(users)).values(created_by_id=None)
    connection.execute(others)
    removed = connection.execute(sa.delete(Reservation).where(Reservation.customer_id.in_(users))).rowcount
    reserved = sa.select(Reservation.resource_id).where(Reservation.resource_id.is_not(None))
    connection.execute(sa.delete(Resource).where(Resource.name.in_(RESOURCES), Resource.id.not_in(reserved)))
    connection.execute(sa.delete(User).where(User.id.in_(users)))
    db.session.commit()
    return removed


def _load_users(school_id: int) -> dict[str, int]:
    people = {person.email: person for person in (*LOGINS, *CUSTOMERS)}
    present = db.session.scalars(sa.select(User.email).where(User.email.in_(people)))
    password_hash = hash_password(DEMO_PASSWORD)
    missing = [_user_row(people[email], password_hash, school_id) for email in sorted(people.keys() - set(present))]
    if missing:
        db.session.connection().execute(sa.insert(User), missing)
    query = sa.select(User.email, User.id).where(User.email.in_(people))
    return {people[email].username: id for email, id in db.session.execute(query)}


def _user_row(person: Person, password_hash: str, school_id: int) -> dict[str, Any]:
    return {
        "school_id": school_id,
        "username": person.username,
        "username_key": person.username,
        "email": person.email,
        "confirmed_at": utc_now(),
        "name": person.name,
        "role": person.role,
        "may_operate": person.may_operate,
        "password_hash": password_hash,
    }


def _load_login_addresses(ids: Ids) -> None:
    now = utc_now()
    common = {"state": AddressState.TRUSTED, "first_seen_at": now, "last_seen_at": now}
    rows = [
        {"user_id": ids.users[name], "network": network_of(ip_address), "address": ip_address, **common}
        for name in KNOWN_HERE
        for ip_address in LOOPBACK
    ]
    insert_ignoring_conflicts(db.session(), LoginAddress, rows, key="network")


def _load_resources(school_id: int) -> list[int]:
    query = sa.select(Resource.name, Resource.id).where(Resource.school_id == school_id, Resource.name.in_(RESOURCES))
    present = {row.name for row in db.session.execute(query)}
    missing = [
        {"school_id": school_id, "name": name, "capacity": size}
        for name, size in RESOURCES.items()
        if name not in present
    ]
    if missing:
        db.session.connection().execute(sa.insert(Resource), missing)
    ids = {row.name: row.id for row in db.session.execute(query)}
    return [ids[name] for name in RESOURCES]


def _has_reservations(ids: Ids) -> bool:
    query = sa.select(Reservation.id).where(Reservation.customer_id.in_(ids.users.values())).limit(1)
    return db.session.scalar(query) is not None


def _reservation_rows(ids: Ids, zone: ZoneInfo) -> list[dict[str, Any]]:
    today = utc_now().astimezone(zone).date()
    numbers = range((LAST_DAY - FIRST_DAY + 1) * PER_DAY)
    return [_reservation_row(number, ids, today, zone) for number in numbers]


def _reservation_row(number: int, ids: Ids, today: date, zone: ZoneInfo) -> dict[str, Any]:
    """Return the row of a number: its person, room and hour follow from remainders of small primes."""
    day_offset, slot = FIRST_DAY + number // PER_DAY, number % PER_DAY
    # One in the morning and one in the afternoon, each shorter than three hours: they never overlap.
    start = datetime.combine(today + timedelta(days=day_offset), time(9 + 4 * slot + number % 3), zone)
    minutes = (45, 60, 90, 120)[number % 4]
    people = ("member", *(person.username for person in CUSTOMERS))
    return {
        "school_id": ids.school,
        "customer_id": ids.users[people[number % len(people)]],
        "created_by_id": ids.users[people[number % len(people)]],
        "resource_id": None if number % 7 == 6 else ids.resources[number % len(ids.resources)],
        "start_time": start,
        "duration_minutes": minutes,
        "end_time": start + timedelta(minutes=minutes),
        "party_size": 1 + number % 5,
        "note": NOTES[number % len(NOTES)],
        "status": _status_of(number, day_offset),
        # A week before its day: the last one was created yesterday or today, never in the future.
        "created_at": utc_now() - timedelta(days=LAST_DAY + 1 - FIRST_DAY - number / PER_DAY),
    }


def _status_of(number: int, day_offset: int) -> ReservationStatus:
    if number % 6 == 5:
        return ReservationStatus.CANCELLED
    if day_offset < 0:
        return ReservationStatus.COMPLETED
    return ReservationStatus.PENDING if number % 2 else ReservationStatus.CONFIRMED


def _insert_reservations(rows: Sequence[dict[str, Any]], staff_id: int) -> None:
    connection = db.session.connection()
    statement = sa.insert(Reservation).returning(Reservation.id, sort_by_parameter_order=True)
    ids = connection.execute(statement, rows).scalars().all()
    changes = [change for id, row in zip(ids, rows, strict=True) for change in _change_rows(id, row, staff_id)]
    connection.execute(sa.insert(StatusChange), changes)


def _change_rows(reservation_id: int, reservation: Mapping[str, Any], staff_id: int) -> list[dict[str, Any]]:
    """Return the changes up to the status of a reservation: by staff, the completion by the sweep."""
    steps: dict[ReservationStatus, list[ReservationStatus]] = {
        ReservationStatus.PENDING: [],
        ReservationStatus.CONFIRMED: [ReservationStatus.CONFIRMED],
        ReservationStatus.CANCELLED: [ReservationStatus.CANCELLED],
        ReservationStatus.COMPLETED: [ReservationStatus.CONFIRMED, ReservationStatus.COMPLETED],
    }
    rows: list[dict[str, Any]] = []
    old = ReservationStatus.PENDING
    for number, new in enumerate(steps[reservation["status"]], 1):
        at = min(reservation["created_at"] + timedelta(hours=number), utc_now())
        rows.append(
            {
                "id": new_id(at),
                "subject_type": subject_type(Reservation),
                "subject_id": reservation_id,
                "field": Reservation.status.key,
                "old": old.value,
                "new": new.value,
                "at": at,
                "school_id": reservation["school_id"],
                "user_id": None if new is ReservationStatus.COMPLETED else staff_id,
            }
        )
        old = new
    return rows
